// Sizes that follow from the head dim: what is padded, what a block holds, and whether it fits.
#pragma once

#include <cstddef>

namespace attention::sm80 {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 4, kFewestWarps = 2;  // of a block
constexpr int kFragment = 16;                   // rows of an mma tile, and its depth
constexpr std::size_t kMaxShared = 101376;      // bytes a block may have on sm_86, sm_89 and sm_120

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// kHeadDim: a multiple of 8. kRowTiles: groups of 16 queries that a warp owns. kKeys: of one tile, a multiple
// of 16. kStages: tiles of keys and of values in shared memory.
template <int kHeadDim_, int kRowTiles_, int kKeys_, int kStages_>
struct Shape {
  static constexpr int kHeadDim = kHeadDim_, kRowTiles = kRowTiles_, kKeys = kKeys_, kStages = kStages_;

  static constexpr int kDepth = round_up(kHeadDim, 16);  // of q k^T: exact but for half a step
  static constexpr int kDepthSteps = kDepth / 16;
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kKeySteps = kKeys / 16;
  static constexpr bool kOneTile = kStages == 1;     // of keys
  static constexpr int kColumnTiles = kHeadDim / 8;  // of p v: exact

  // A row is an odd number of 16-byte chunks, so that the 8 rows of an ldmatrix lie in different banks.
  static constexpr int kRow = kDepth + 8;
  static constexpr int kValueRow = kColumnTiles % 2 == 0 ? kHeadDim + 8 : kHeadDim;

  static constexpr int kWarpRows = kRowTiles * kFragment;
  static constexpr int kKeyStage = kKeys * kRow;         // elements of a stage
  static constexpr int kValueStage = kKeys * kValueRow;  // elements of a stage

  // Fragments of q stay in registers while they and the accumulators leave room for the rest of 255. With 168
  // no variant spills.
  static constexpr int kAccumulators = kRowTiles * (kColumnTiles + kKeyTiles) * 4;
  static constexpr bool kQueriesInRegisters = kAccumulators + kRowTiles * kDepthSteps * 4 <= 168;

  // Blocks whose registers a multiprocessor must have room for; 0 leaves it to nvcc. At this one shape its
  // own choice is five, which spills 8 bytes.
  static constexpr int kBlocks = kHeadDim == 40 && kRowTiles == 1 && kStages == 2 ? 4 : 0;

  static constexpr std::size_t shared_bytes(int warps) {
    return 2 * (static_cast<std::size_t>(warps) * kWarpRows * kRow + kStages * (kKeyStage + kValueStage));
  }
  static constexpr bool kFits = shared_bytes(kFewestWarps) <= kMaxShared;
  static constexpr int kMostWarps = shared_bytes(kMaxWarps) <= kMaxShared ? kMaxWarps : kFewestWarps;
  static constexpr std::size_t kSharedBytes = shared_bytes(kMostWarps);
};

}  // namespace attention::sm80
