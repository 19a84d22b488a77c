// A consumer: the warpgroup that owns 64 rows of a tile of queries, from the logits to the result.
#pragma once

#include <cstdint>

#include "../../simt.h"
#include "../softmax.h"
#include "block.h"
#include "exponentials.h"
#include "maps.h"
#include "multiply.h"
#include "shape.h"
#include "store.h"
#include "work.h"

namespace attention::sm90 {

// Two consumers take turns (Shah et al. 2024, FlashAttention-3, section 3.1): while one has the tensor cores
// multiply, the other has its exponentials computed. Named barrier 1 + c lets consumer c go. Who passes does
// not wait, so at the end one arrival stays open, which is allowed.
template <class S>
struct Turns {
  static constexpr int kFirst = 1, kThreads = 2 * kWarpgroup;
  static constexpr int kMeeting = kFirst + S::kConsumers;  // and as many more as there are consumers
  static_assert(kMeeting + S::kConsumers <= 16);           // barrier 0 is the block's

  DEVICE static void begin(int consumer) {  // consumer 0 goes first
    if (S::kConsumers == 2 && consumer == 1) simt::named_arrive(kFirst, kThreads);
  }
  DEVICE static void take(int consumer) {
    if constexpr (S::kConsumers == 2) simt::named_sync(kFirst + consumer, kThreads);
  }
  DEVICE static void pass(int consumer) {
    if constexpr (S::kConsumers == 2) simt::named_arrive(kFirst + 1 - consumer, kThreads);
  }
};

// All warps of a consumer are here.
template <class S>
DEVICE void meet(int consumer) {
  simt::named_sync(Turns<S>::kMeeting + consumer, kWarpgroup);
}

// The caller's warp has read what `empty` guards: a wait for wgmma went before, which all lanes make
// together, so that one of them may speak for all.
DEVICE void release(simt::Mbarrier* empty) {
  if (simt::thread_index() % kWarp == 0) simt::mbarrier_arrive(empty);
}

// For every tile of keys s = q k^T, p = exponentials of s, o += p v; q k^T of one tile runs beside p v of the
// one before (the same, section 3.2). The first product and the last have nothing beside them, and take no
// turn: with few tiles of keys the other consumer would wait for nothing.
template <class T, class S>
struct Consumer {
  using Design = typename S::Design;
  using Fragments = std::uint32_t[S::kKeySteps][4];  // of p

  const Work& work;
  const Memory<T, S>& memory;
  const int consumer;
  T* const queries;

  float s[S::kKeyTiles][4], o[S::kWidthTiles][4];
  RowState state;
  Cursor<S::kStages> at_keys, at_values;
  Cursor<1> at_queries;

  DEVICE Consumer(const Work& work, const Memory<T, S>& memory, int consumer)
      : work(work), memory(memory), consumer(consumer), queries(memory.queries + consumer * S::kQueryTile) {}

  DEVICE void pack(Fragments& p) const {
    UNROLL_FOR (int step = 0; step < S::kKeySteps; step++) pack_fragment<T>(p[step], s, step);
  }

  // The exponentials of a tile; in a packed design, p too.
  template <bool kFirst>
  DEVICE bool softmax(Fragments& p, float (&correction)[2]) {
    return softmax_step<Design, kFirst>(s, state, correction, work.scale_log2, [&](int step) {
      pack_fragment<T>(p[step], s, step);
      simt::compute_now(p[step], work.heads < 0);  // or all are packed after the exponentials
    });
  }

  DEVICE void first(Fragments& p) {
    state = {{simt::minus_infinity(), simt::minus_infinity()}, {0.0f, 0.0f}};
    UNROLL_FOR (int n = 0; n < S::kWidthTiles; n++)
      UNROLL_FOR (int i = 0; i < 4; i++) o[n][i] = 0.0f;

    float correction[2];
    simt::mbarrier_wait(memory.queries_full + consumer, at_queries.parity);
    simt::mbarrier_wait(memory.keys_full + at_keys.stage, at_keys.parity);
    multiply_keys<S>(s, queries, memory.keys + at_keys.stage * S::kKeyStage);
    simt::wgmma_wait<0>(s);
    release(memory.keys_empty + at_keys.stage);
    at_keys.advance();
    mask_keys(s, work.last_keys);
    softmax<true>(p, correction);
    if constexpr (!Design::kPacked) pack(p);
    simt::mbarrier_wait(memory.values_full + at_values.stage, at_values.parity);
  }

  // Multiplies by one p and makes the next: in its place, or in another while the product is under way.
  DEVICE void next(Fragments& used, Fragments& made) {
    float correction[2];
    simt::mbarrier_wait(memory.keys_full + at_keys.stage, at_keys.parity);
    Turns<S>::take(consumer);
    multiply_keys<S>(s, queries, memory.keys + at_keys.stage * S::kKeyStage);
    multiply_values<S>(o, used, memory.values + at_values.stage * S::kKeyStage);
    Turns<S>::pass(consumer);
    simt::wgmma_wait<1>(s);
    release(memory.keys_empty + at_keys.stage);
    at_keys.advance();
    const bool changed = softmax<false>(made, correction);
    // Here and not where they are needed: the compiler lets nothing pass that loops, and would otherwise
    // wait for p v before it computes the exponentials.
    Cursor<S::kStages> next = at_values;
    next.advance();
    simt::mbarrier_wait(memory.values_full + next.stage, next.parity);
    simt::wgmma_wait<0>(o);
    release(memory.values_empty + at_values.stage);
    at_values = next;
    if (changed) rescale(o, correction);
    if constexpr (!Design::kPacked) pack(made);
  }

  DEVICE void last(Fragments& p) {
    multiply_values<S>(o, p, memory.values + at_values.stage * S::kKeyStage);
    simt::wgmma_wait<0>(o);
    release(memory.values_empty + at_values.stage);
    at_values.advance();
  }

  DEVICE void store(const Map& map, const Tile& tile) {
    meet<S>(consumer);  // nobody reads the queries any more, over which o is staged
    store_rows<S>(map, tile, tile.first_row + consumer * kRows, queries, memory.queries_empty + consumer, o,
                  state);
    at_queries.advance();
  }
};

template <class T, class S>
DEVICE void consume(const Maps& maps, const Work& work, const Memory<T, S>& memory, int consumer) {
  Consumer<T, S> of(work, memory, consumer);
  typename Consumer<T, S>::Fragments p;
  Turns<S>::begin(consumer);
  for (int index = simt::block_index(); index < work.tiles; index += simt::block_count()) {
    of.first(p);
    if constexpr (S::Design::kPacked) {
      typename Consumer<T, S>::Fragments other;
      int j = 1;
      for (; j + 1 < work.key_tiles; j += 2) {
        of.next(p, other);
        of.next(other, p);
      }
      if (j < work.key_tiles) {
        of.next(p, other);
        of.last(other);
      } else {
        of.last(p);
      }
    } else {
      for (int j = 1; j < work.key_tiles; j++) of.next(p, p);
      of.last(p);
    }
    of.store(maps.o, tile_at<S>(work, index));
  }
}

}  // namespace attention::sm90
