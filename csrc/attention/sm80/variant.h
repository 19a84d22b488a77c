// One variant for each head dim and type, compiled from variant.cu on its own.
#pragma once

#include "../../simt.h"
#include "../params.h"

namespace attention::sm80 {

// Attention by the kernel made for kHeadDim, which also serves smaller head dims.
template <class T, int kHeadDim>
simt::Status variant(const Params& params, simt::Stream stream);

}  // namespace attention::sm80
