// One variant: compiled with -DVARIANT_HEAD_DIM=40 -DVARIANT_TYPE=bfloat16.
#include "variant.h"

#include "launch.h"

namespace attention::sm90 {

template <>
simt::Status variant<simt::VARIANT_TYPE, VARIANT_HEAD_DIM>(const Params& params, simt::Stream stream) {
  return choose<simt::VARIANT_TYPE, VARIANT_HEAD_DIM>(params, stream);
}

}  // namespace attention::sm90
