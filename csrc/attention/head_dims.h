// The head dims that have kernels of their own.
#pragma once

#ifndef FEWSTEP_HEAD_DIMS
#define FEWSTEP_HEAD_DIMS 32, 40, 64, 80, 96, 128, 160, 192, 256
#endif

namespace attention {

template <int... kHeadDims>
struct HeadDims {};

using Built = HeadDims<FEWSTEP_HEAD_DIMS>;  // ascending

}  // namespace attention
