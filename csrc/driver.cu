#include "driver.h"

#include <cuda_runtime_api.h>

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}
