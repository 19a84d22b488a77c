// The variants that are built: one for each head dim and type, each compiled from variant.cu on its own.
#pragma once

#include "../../simt.h"
#include "../params.h"

#ifndef FEWSTEP_HEAD_DIMS
#define FEWSTEP_HEAD_DIMS 32, 40, 64, 80, 96, 128, 160, 192, 256
#endif

namespace attention::sm80 {

template <int... kHeadDims>
struct HeadDims {};

using Built = HeadDims<FEWSTEP_HEAD_DIMS>;  // ascending

// Attention by the kernel made for kHeadDim, which also serves smaller head dims.
template <class T, int kHeadDim>
simt::Status variant(const Params& params, simt::Stream stream);

}  // namespace attention::sm80
