// Which kernel runs, in which blocks: a function of the shape and of how many multiprocessors there are to
// fill.
#pragma once

#include <algorithm>

#include "kernel.h"
#include "maps.h"
#include "runs.h"
#include "shape.h"
#include "work.h"

namespace attention::sm90 {

// The sizes of one head dim, by what registers (240 a thread) and shared memory allow; which are fastest no
// GPU has been asked yet.
template <int kHeadDim, class Design>
struct Sizes {
  static constexpr int kKeys = Design::kKeys     ? Design::kKeys
                               : kHeadDim <= 128 ? 128
                               : kHeadDim <= 192 ? 96
                                                 : 48;
  static constexpr int kStages = kHeadDim <= 128 || kHeadDim > 192 ? 3 : 2;

  using Large = Shape<kHeadDim, 2, kKeys, kHeadDim <= 64 ? 4 : kStages, Design>;
  using Small = Shape<kHeadDim, 1, kKeys, kStages, Design>;  // the same keys a tile, so the same bits
  using Short = Shape<kHeadDim, 1, 80, 1, Design>;           // 77 keys, what a text encoder of CLIP's gives
};

template <class T, class S>
simt::Status launch(const Params& params, simt::Stream stream) {
  static_assert(S::kFits);
  Maps maps;
  const simt::Status status = make_maps<S>(maps, params);
  if (status.code != 0) return status;
  const Work work = work_of<S>(params);
  const int blocks = std::min(work.tiles, params.multiprocessors * S::kResident);
  constexpr auto kernel = [] {
    if constexpr (S::Design::kRuns)
      return attention_runs<T, S>;
    else
      return attention_fwd<T, S>;
  }();
  return simt::launch(kernel, blocks, S::kThreads, S::kSharedBytes, stream, maps, work);
}

// Blocks of two consumers, unless half of the multiprocessors would have none.
template <class T, int kHeadDim, class Design>
simt::Status choose(const Params& params, simt::Stream stream) {
  using Of = Sizes<kHeadDim, Design>;
  if constexpr (Design::kShort)
    if (params.keys <= Of::Short::kKeys) return launch<T, typename Of::Short>(params, stream);
  if constexpr (Design::kRuns)
    return {-1, "design: runs is for up to 80 keys"};
  else {
    if (work_of<typename Of::Large>(params).tiles <= params.multiprocessors / 2)
      return launch<T, typename Of::Small>(params, stream);
    return launch<T, typename Of::Large>(params, stream);
  }
}

}  // namespace attention::sm90
