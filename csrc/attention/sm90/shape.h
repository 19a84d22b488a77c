// Sizes that follow from the head dim: what a block holds, and whether it fits.
#pragma once

#include <cstddef>

#include "designs.h"

namespace attention::sm90 {

constexpr int kWarp = 32, kWarpgroup = 128;  // threads
constexpr int kWarps = kWarpgroup / kWarp;
constexpr int kRows = 64;                        // queries of a consumer: what one wgmma multiplies
constexpr int kPanel = 64;                       // columns: rows of 128 bytes
constexpr int kRowBytes = 128;                   // of a panel
constexpr int kGroupBytes = 8 * kRowBytes;       // rows whose chunks are swizzled together
constexpr std::size_t kMaxShared = 232448;       // bytes a block may have on sm_90
constexpr std::size_t kMultiprocessor = 233472;  // bytes that all its blocks share
constexpr std::size_t kReserved = 1024;          // of them, a block, are CUDA's own
constexpr int kRegisters = 65536;                // of a multiprocessor
constexpr int kMaxBox = 256;                     // rows that TMA moves at once

constexpr int divide_up(int value, int by) { return (value + by - 1) / by; }

// kHeadDim: a multiple of 8. kConsumers: warpgroups that multiply, each with 64 queries. kKeys: of one tile,
// a multiple of 16. kStages: tiles of keys and of values in shared memory; 1 where one tile has all keys.
//
// A tile of any of q, k, v and o is panels of 64 columns, each panel all rows of the tile.
template <int kHeadDim_, int kConsumers_, int kKeys_, int kStages_, class Design_ = Exact>
struct Shape {
  using Design = Design_;
  static constexpr int kHeadDim = kHeadDim_, kConsumers = kConsumers_, kKeys = kKeys_, kStages = kStages_;

  static constexpr int kPanels = divide_up(kHeadDim, kPanel);
  static constexpr int kDepthSteps = divide_up(kHeadDim, 16);  // of q k^T: exact but for half a step
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kKeySteps = kKeys / 16;
  static constexpr int kWidth = Design::kPadded ? kPanels * kPanel : kHeadDim;  // of p v
  static constexpr int kWidthTiles = kWidth / 8;
  static constexpr int kColumnTiles = kHeadDim / 8;  // of o

  // The producer is the first warpgroup; in runs it is a warp, the last.
  static constexpr int kThreads = kConsumers * kWarpgroup + (Design::kRuns ? kWarp : kWarpgroup);
  static constexpr int kBlockRows = kConsumers * kRows;
  static constexpr int kQueryBuffers = Design::kRuns ? 2 : kConsumers;
  static constexpr int kQueryTile = kPanels * kRows * kPanel;  // elements of a consumer
  static constexpr int kKeyStage = kPanels * kKeys * kPanel;   // elements of a stage, of keys and of values
  static constexpr std::size_t kTileBytes =
      2 * (static_cast<std::size_t>(kQueryBuffers) * kQueryTile + 2 * kStages * kKeyStage);
  static constexpr std::size_t kBarrierBytes = 8 * (4 * kStages + 2 * kQueryBuffers);
  static constexpr std::size_t kSharedBytes = kTileBytes + kBarrierBytes;
  static constexpr bool kFits = kSharedBytes <= kMaxShared;

  // Registers of a thread, from 65,536 a multiprocessor: one block of two consumers, or two of one. They
  // start with equal shares; then the producer gives its own away. A consumer alone with 256 columns needs a
  // whole share from the start, and a multiprocessor.
  //
  // In runs nobody gives any away: as many blocks as registers (96 a thread with 4) and shared memory allow.
  static constexpr bool kSharesRegisters = !Design::kRuns && (kConsumers == 2 || kHeadDim < 256);
  static constexpr int kRoom = static_cast<int>(kMultiprocessor / (kSharedBytes + kReserved));
  static constexpr int kMostRuns = kRoom < 4 ? kRoom : 4;
  static constexpr int kBlocks = Design::kRuns ? kMostRuns : kConsumers == 1 && kSharesRegisters ? 2 : 1;
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = kConsumers == 1 ? 232 : 240;
  static constexpr int kResident = kBlocks < kRoom ? kBlocks : kRoom;

  // What a thread starts with, if the compiler takes all that the launch bounds allow it: 168 or 128. It
  // must, or consumers wait for ever for registers that nobody has; tools/cuda_gate.py looks. 0: none are
  // shared.
  static constexpr int kStartRegisters = kSharesRegisters ? kRegisters / (kBlocks * kThreads) / 8 * 8 : 0;
  static_assert(!kSharesRegisters ||
                kProducerRegisters * kWarpgroup + kConsumerRegisters * kConsumers * kWarpgroup <=
                    kStartRegisters * kThreads);

  static_assert(kKeys % 16 == 0 && kHeadDim % 8 == 0);
  static_assert(kKeys <= kMaxBox && kRows <= kMaxBox);
  static_assert(!Design::kRuns || (kConsumers == 1 && kStages == 1));
  // The swizzle repeats after 8 rows, so that panels begin at a multiple of that, and barriers at one of 8.
  static_assert(kRows * kRowBytes % kGroupBytes == 0 && kKeys * kRowBytes % kGroupBytes == 0);
  static_assert(2 * kQueryTile % kGroupBytes == 0 && 2 * kKeyStage % kGroupBytes == 0);
  static_assert(kTileBytes % kGroupBytes == 0 && kGroupBytes == 1024);
};

}  // namespace attention::sm90
