// Checks, then the choice of a variant.
#include "attention.h"

#include <climits>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "head_dims.h"
#include "sm80/variant.h"
#include "sm90/designs.h"
#include "sm90/variant.h"

namespace attention {

namespace {

constexpr int kAlignment = 16;  // bytes that a thread copies at once
constexpr int kChunk = 8;       // elements of them
constexpr int kMaxHeadDim = 256;
constexpr int kMaxRows = 1 << 30;
constexpr int kMaxTiles = 1 << 30;
// Both are counted in int, past the end by less than a tile and by less than a grid, which is not so large.
static_assert(kMaxRows <= INT_MAX - 256 && kMaxTiles <= INT_MAX - (1 << 20));

bool aligned(const View& view) {
  const std::int64_t strides = view.batch_stride | view.row_stride | view.head_stride;
  return reinterpret_cast<std::uintptr_t>(view.data) % kAlignment == 0 && strides % kChunk == 0;
}

const char* refusal(const Params& p) {
  if (!p.q.data || !p.k.data || !p.v.data || !p.o.data) return "q, k, v and o must not be null";
  if (!aligned(p.q) || !aligned(p.k) || !aligned(p.v) || !aligned(p.o))
    return "q, k, v and o must be aligned to 16 bytes, and their strides multiples of 8 elements";
  if (p.batch < 1 || p.heads < 1 || p.queries < 1 || p.keys < 1)
    return "batch, heads, queries and keys must be 1 or more";
  if (p.head_dim < kChunk || p.head_dim > kMaxHeadDim || p.head_dim % kChunk != 0)
    return "head_dim must be a multiple of 8 up to 256";
  if (!(p.scale > 0.0f) || std::isinf(p.scale)) return "scale must be positive and finite";
  if (p.multiprocessors < 1) return "multiprocessors must be 1 or more";
  if (p.arch < 80) return "arch must be 80 or more";
  if (p.queries >= kMaxRows || p.keys >= kMaxRows) return "queries and keys must be fewer than 2^30";
  const double blocks = static_cast<double>(p.batch) * p.heads * ((p.queries + 15.0) / 16);  // at most
  if (blocks >= kMaxTiles) return "batch, heads and groups of 16 queries together must be fewer than 2^30";
  return nullptr;
}

// TMA takes strides below 2^40 bytes, and is not promised to take one row for many.
bool fits_tma(const View& view, int rows) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 39;
  return view.batch_stride < kMostElements && view.head_stride < kMostElements &&
         view.row_stride < kMostElements && (rows == 1 || view.row_stride > 0);
}

bool fits_tma(const Params& p) {
  return fits_tma(p.q, p.queries) && fits_tma(p.k, p.keys) && fits_tma(p.v, p.keys) &&
         fits_tma(p.o, p.queries);
}

// A design and what comes after it: "lazy+l2_256" is lazy with another promotion of what TMA fetches.
struct Named {
  std::string_view design;
  int promotion;
};

Named named(std::string_view text) {
  constexpr std::pair<std::string_view, int> kPromotions[] = {{"l2_none", 0}, {"l2_256", 256}};
  const auto last = text.rfind('+');
  const std::string_view part = last == text.npos ? text : text.substr(last + 1);
  for (const auto& [name, promotion] : kPromotions)
    if (part == name) return {last == text.npos ? "" : text.substr(0, last), promotion};
  return {text, Params{}.promotion};
}

template <class T>
constexpr bool kIsBfloat16 = std::is_same_v<T, simt::bfloat16>;

template <class T, int kHeadDim>
std::vector<std::string> names() {
  std::vector<std::string> found;
#ifdef FEWSTEP_SM90
  sm90::each_design<kHeadDim, kIsBfloat16<T>>([&](auto design) { found.push_back(decltype(design)::kName); });
#endif
  return found;
}

simt::Status unknown(std::string_view design, const std::vector<std::string>& allowed) {
  static thread_local std::string message;
  message = "design: got '" + std::string(design) + "'; allowed: ''";
  for (const std::string& each : allowed) message += ", '" + each + "'";
  message += ", and any of them followed by +l2_none or +l2_256";
  return {-1, message.c_str()};
}

// A kernel is exact and padded at once where there is nothing to choose: that of sm_80 pads no width, and a
// head dim that is a multiple of 64 has none to pad.
bool is_of_any(std::string_view design) { return design == "" || design == "exact" || design == "padded"; }

#ifdef FEWSTEP_SM90
// Whether there is such a design; if it takes the tensors, it has run, and `status` tells how that went.
template <class T, int kHeadDim>
bool sm90_variant(const Params& params, std::string_view name, simt::Stream stream, simt::Status& status) {
  const bool is_default = name == "" || (kHeadDim % 64 == 0 && is_of_any(name));
  const std::string_view wanted = is_default ? sm90::Exact::kName : name;
  bool found = false;
  sm90::each_design<kHeadDim, kIsBfloat16<T>>([&](auto design) {
    using Design = decltype(design);
    if (wanted != Design::kName) return;
    found = true;
    if (fits_tma(params)) status = sm90::variant<T, kHeadDim, Design>(params, stream);
  });
  return found;
}
#endif

template <class T, int kHeadDim>
simt::Status variant(const Params& given, std::string_view text, simt::Stream stream) {
  Params params = given;
  const Named name = named(text);
  params.promotion = name.promotion;
#ifdef FEWSTEP_SM90
  if (params.arch == 90) {
    simt::Status status;
    if (!sm90_variant<T, kHeadDim>(params, name.design, stream, status))
      return unknown(text, names<T, kHeadDim>());
    return fits_tma(params) ? status : sm80::variant<T, kHeadDim>(params, stream);
  }
#endif
  return is_of_any(name.design) ? sm80::variant<T, kHeadDim>(params, stream)
                                : unknown(text, {"exact", "padded"});
}

// Calls found(kHeadDim) for the first variant, in the order they are listed, that has the head dim or the
// nearest above it.
template <class Found, int... kHeadDims>
bool nearest(int head_dim, const Found& found, HeadDims<kHeadDims...>) {
  return ((head_dim <= kHeadDims && (found(std::integral_constant<int, kHeadDims>{}), true)) || ...);
}

template <class T>
simt::Status dispatch(const Params& params, std::string_view design, simt::Stream stream) {
  simt::Status status{-1, "no variant for this head_dim was built"};
  nearest(params.head_dim, [&](auto dim) { status = variant<T, dim()>(params, design, stream); }, Built{});
  return status;
}

template <int... kHeadDims>
std::vector<int> listed(HeadDims<kHeadDims...>) {
  return {kHeadDims...};
}

}  // namespace

std::vector<int> head_dims() { return listed(Built{}); }

std::vector<std::string> designs(int head_dim) {
  std::vector<std::string> found;
  nearest(head_dim, [&](auto dim) { found = names<simt::bfloat16, dim()>(); }, Built{});
  return found;
}

simt::Status attention_fwd(const Params& params, Type type, std::string_view design, simt::Stream stream) {
  if (const char* message = refusal(params)) return {-1, message};
#ifndef FEWSTEP_BFLOAT16_ONLY
  if (type == Type::kFloat16) return dispatch<simt::half>(params, design, stream);
#endif
  if (type == Type::kBFloat16) return dispatch<simt::bfloat16>(params, design, stream);
  return {-1, "no variant for this type was built"};
}

}  // namespace attention
