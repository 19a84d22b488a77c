// fewstep_kernels._C: the CUDA kernels. Pointers, sizes and streams are integers. Neither torch nor a header
// of CUDA's is involved, so that g++ alone compiles this file for whichever Python there is.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "arguments.h"
#include "driver.h"

static void attention_fwd(const Pointers& pointers, const Strides& strides, const Sizes& sizes, bool is_half,
                          float scale, const std::string& design, int multiprocessors, int arch,
                          std::uintptr_t stream) {
  const attention::Params params = attention_params(pointers, strides, sizes, scale, multiprocessors, arch);
  const simt::Status status = attention::attention_fwd(params, attention_type(is_half), design,
                                                       reinterpret_cast<simt::Stream>(stream));
  if (status.code < 0) throw std::invalid_argument(status.message);
  if (status.code > 0) throw std::runtime_error(status.message);
}

PYBIND11_MODULE(_C, module) {
  module.def("attention_fwd", &attention_fwd);
  module.def("head_dims", &attention::head_dims);
  module.def("designs", &attention::designs);
  module.def("driver_version", &driver_version);
}
