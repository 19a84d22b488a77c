// Sizes that follow from the head dim: what a block holds, and whether it fits.
#pragma once

#include <cstddef>

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

constexpr int divide_up(int value, int by) { return (value + by - 1) / by; }

// kHeadDim: a multiple of 8. kConsumers: warpgroups that multiply, each with 64 queries. kKeys: of one tile,
// a multiple of 16. kStages: tiles of keys and of values in shared memory; 1 where one tile has all keys.
//
// A tile of any of q, k, v and o is panels of 64 columns, each panel all rows of the tile.
template <int kHeadDim_, int kConsumers_, int kKeys_, int kStages_>
struct Shape {
  static constexpr int kHeadDim = kHeadDim_, kConsumers = kConsumers_, kKeys = kKeys_, kStages = kStages_;

  static constexpr int kPanels = divide_up(kHeadDim, kPanel);
  static constexpr int kDepthSteps = divide_up(kHeadDim, 16);  // of q k^T: exact but for half a step
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kKeySteps = kKeys / 16;
  static constexpr int kColumnTiles = kHeadDim / 8;  // of p v: exact

  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;  // the producer is the first warpgroup
  static constexpr int kBlockRows = kConsumers * kRows;
  static constexpr int kQueryTile = kPanels * kRows * kPanel;  // elements of a consumer
  static constexpr int kKeyStage = kPanels * kKeys * kPanel;   // elements of a stage, of keys and of values
  static constexpr std::size_t kTileBytes =
      2 * (static_cast<std::size_t>(kConsumers) * kQueryTile + 2 * kStages * kKeyStage);
  static constexpr std::size_t kBarrierBytes = 8 * (4 * kStages + 2 * kConsumers);
  static constexpr std::size_t kSharedBytes = kTileBytes + kBarrierBytes;
  static constexpr bool kFits = kSharedBytes <= kMaxShared;

  // Registers of a thread, from 65,536 a multiprocessor: one block of two consumers, or two of one. They
  // start with equal shares; then the producer gives its own away. A consumer alone with 256 columns needs a
  // whole share from the start, and a multiprocessor.
  static constexpr bool kSharesRegisters = kConsumers == 2 || kHeadDim < 256;
  static constexpr int kBlocks = kConsumers == 1 && kSharesRegisters ? 2 : 1;
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = kConsumers == 1 ? 232 : 240;
  static constexpr int kRoom = static_cast<int>(kMultiprocessor / (kSharedBytes + kReserved));
  static constexpr int kResident = kBlocks < kRoom ? kBlocks : kRoom;
};

}  // namespace attention::sm90
