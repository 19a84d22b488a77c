// The head dims that have kernels of their own: compiled with -DFEWSTEP_HEAD_DIMS=32,40,64.
#pragma once

namespace attention {

template <int... kHeadDims>
struct HeadDims {};

using Built = HeadDims<FEWSTEP_HEAD_DIMS>;  // ascending

}  // namespace attention
