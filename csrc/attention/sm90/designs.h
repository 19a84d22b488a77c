// The designs of the kernel: each a type, whose name Python knows. What one does not name is as in Exact.
#pragma once

namespace attention::sm90 {

struct Exact {
  static constexpr char kName[] = "exact";
  static constexpr bool kPadded =
      false;  // the width of p v is up to a multiple of 64: zeros fill shared memory
  static constexpr bool kPacked =
      false;                             // two buffers of p, so that one is packed while the other multiplies
  static constexpr bool kLazy = false;   // what was summed keeps its maximum until a row's rises by 2^kRise
  static constexpr int kPolynomial = 0;  // of 8 pairs of exponentials, so many by a polynomial
  static constexpr int kKeys = 0;        // of a tile; 0: as launch.h has it
  static constexpr bool kRuns = false;   // neighbouring tiles of queries by one block: runs.h
  static constexpr bool kShort = true;   // has a kernel of its own for keys in one short tile
};

struct Padded : Exact {
  static constexpr char kName[] = "padded";
  static constexpr bool kPadded = true;
};

struct Runs : Exact {
  static constexpr char kName[] = "runs";
  static constexpr bool kRuns = true;
};

struct Swept : Exact {
  static constexpr bool kShort = false;
};

struct Lazy : Swept {
  static constexpr char kName[] = "lazy";
  static constexpr bool kLazy = true;
};

struct PackedLazy : Lazy {
  static constexpr char kName[] = "packed+lazy";
  static constexpr bool kPacked = true;
};

struct PackedLazyPoly8 : PackedLazy {
  static constexpr char kName[] = "packed+lazy+poly8";
  static constexpr int kPolynomial = 1;
};

struct PackedLazyKeys144 : PackedLazy {
  static constexpr char kName[] = "packed+lazy+keys144";
  static constexpr int kKeys = 144;
};

struct LazyKeys160 : Lazy {
  static constexpr char kName[] = "lazy+keys160";
  static constexpr int kKeys = 160;
};

struct Keys64 : Swept {
  static constexpr char kName[] = "keys64";
  static constexpr int kKeys = 64;
};

struct Keys80 : Swept {
  static constexpr char kName[] = "keys80";
  static constexpr int kKeys = 80;
};

struct Keys96 : Swept {
  static constexpr char kName[] = "keys96";
  static constexpr int kKeys = 96;
};

struct Keys144 : Swept {
  static constexpr char kName[] = "keys144";
  static constexpr int kKeys = 144;
};

struct Keys160 : Swept {
  static constexpr char kName[] = "keys160";
  static constexpr int kKeys = 160;
};

struct Keys176 : Swept {
  static constexpr char kName[] = "keys176";
  static constexpr int kKeys = 176;
};

// Built to be measured against the rest, with FEWSTEP_SWEEP and in bfloat16: head dim, design. ninja_build.py
// reads this list, as it reads which head dims are padded.
#define FEWSTEP_SWEPT(DESIGN)   \
  DESIGN(40, Lazy)              \
  DESIGN(40, PackedLazy)        \
  DESIGN(40, PackedLazyPoly8)   \
  DESIGN(40, Keys96)            \
  DESIGN(40, Keys144)           \
  DESIGN(40, Keys160)           \
  DESIGN(40, Keys176)           \
  DESIGN(40, PackedLazyKeys144) \
  DESIGN(40, LazyKeys160)       \
  DESIGN(40, Runs)              \
  DESIGN(64, PackedLazy)        \
  DESIGN(64, Keys160)           \
  DESIGN(64, Runs)              \
  DESIGN(80, PackedLazy)        \
  DESIGN(80, Keys96)            \
  DESIGN(80, Runs)              \
  DESIGN(160, Keys64)           \
  DESIGN(160, Keys80)           \
  DESIGN(160, Runs)

// Calls found(D{}) for each design D that a head dim was built in, the default first.
template <int kHeadDim, bool kIsBfloat16, class Found>
void each_design(const Found& found) {
  found(Exact{});
  if constexpr (kHeadDim % 64 != 0) found(Padded{});
#ifdef FEWSTEP_SWEEP
#define DESIGN(head_dim, D) \
  if constexpr (kHeadDim == head_dim && kIsBfloat16) found(D{});
  FEWSTEP_SWEPT(DESIGN)
#undef DESIGN
#endif
}

}  // namespace attention::sm90
