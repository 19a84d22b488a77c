// One variant: compiled with -DVARIANT_HEAD_DIM=40 -DVARIANT_TYPE=bfloat16 -DVARIANT_DESIGN=Exact.
#include "variant.h"

#include "launch.h"

namespace attention::sm90 {

template <>
simt::Status variant<simt::VARIANT_TYPE, VARIANT_HEAD_DIM, VARIANT_DESIGN>(const Params& params,
                                                                           simt::Stream stream) {
  return choose<simt::VARIANT_TYPE, VARIANT_HEAD_DIM, VARIANT_DESIGN>(params, stream);
}

}  // namespace attention::sm90
