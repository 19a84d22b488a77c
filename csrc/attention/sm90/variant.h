// One variant for each head dim, type and design, compiled from variant.cu on its own, for sm_90a alone.
#pragma once

#include "../../simt.h"
#include "../params.h"

namespace attention::sm90 {

// Attention by the kernel made for kHeadDim, which also serves smaller head dims.
template <class T, int kHeadDim, class Design>
simt::Status variant(const Params& params, simt::Stream stream);

}  // namespace attention::sm90
