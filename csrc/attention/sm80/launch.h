// Which kernel runs, in which blocks: a function of the shape and of how many multiprocessors there are to
// fill.
#pragma once

#include "kernel.h"
#include "shape.h"

namespace attention::sm80 {

// The sizes of one head dim. As many queries and keys a tile as registers (255 a thread) and shared memory
// allow.
template <int kHeadDim>
struct Sizes {
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kKeys = kHeadDim <= 96 ? 64 : kHeadDim <= 160 ? 48 : 32;

  using Large = Shape<kHeadDim, kRowTiles, kKeys, 2>;
  using Small = Shape<kHeadDim, 1, kKeys, 2>;  // the same keys a tile, so the same bits
  using Short80 = Shape<kHeadDim, 1, 80, 1>;   // 77 keys, what a text encoder of CLIP's gives
  using Short128 = Shape<kHeadDim, 1, 128, 1>;
};

template <class S>
long blocks(const Params& params, int warps) {
  const int rows = warps * S::kWarpRows;
  return static_cast<long>(params.queries + rows - 1) / rows * params.heads * params.batch;
}

// Four warps a block; two where blocks of four leave multiprocessors idle, or do not fit.
template <class S>
int warps(const Params& params) {
  return blocks<S>(params, S::kMostWarps) >= params.multiprocessors ? S::kMostWarps : kFewestWarps;
}

template <class T, class S>
simt::Status launch(const Params& params, int warps, simt::Stream stream) {
  static_assert(S::kFits);
  return simt::launch(attention_fwd<T, S>, blocks<S>(params, warps), warps * kWarp, S::shared_bytes(warps),
                      stream, params);
}

template <class T, int kHeadDim>
simt::Status choose(const Params& params, simt::Stream stream) {
  using Of = Sizes<kHeadDim>;
  if constexpr (Of::Short80::kFits) {
    using S = typename Of::Short80;
    if (params.keys <= S::kKeys) return launch<T, S>(params, warps<S>(params), stream);
  }
  if constexpr (Of::Short128::kFits) {
    using S = typename Of::Short128;
    if (params.keys <= S::kKeys) return launch<T, S>(params, warps<S>(params), stream);
  }
  if constexpr (Of::kRowTiles > 1) {
    using S = typename Of::Large;
    static_assert(S::kMostWarps == kMaxWarps);
    if (blocks<S>(params, kMaxWarps) >= params.multiprocessors)
      return launch<T, S>(params, kMaxWarps, stream);
  }
  using S = typename Of::Small;
  return launch<T, S>(params, warps<S>(params), stream);
}

}  // namespace attention::sm80
