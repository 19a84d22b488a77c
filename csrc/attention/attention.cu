// Checks, then the choice of a variant.
#include "attention.h"

#include <climits>
#include <cmath>
#include <cstdint>

#include "head_dims.h"
#include "sm80/variant.h"
#include "sm90/variant.h"

namespace attention {

namespace {

constexpr int kAlignment = 16;  // bytes that a thread copies at once
constexpr int kChunk = 8;       // elements of them
constexpr int kMaxHeadDim = 256;
constexpr int kMaxRows = 1 << 30;

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
  if (blocks > INT_MAX) return "batch, heads and groups of 16 queries together must be fewer than 2^31";
  return nullptr;
}

// TMA takes strides below 2^40 bytes, and is not promised to take one row for many.
bool fits_tma(const View& view, int rows) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 39;
  return view.batch_stride < kMostElements && view.head_stride < kMostElements &&
         view.row_stride < kMostElements && (rows == 1 || view.row_stride > 0);
}

bool is_for_sm90(const Params& p) {
  return p.arch == 90 && fits_tma(p.q, p.queries) && fits_tma(p.k, p.keys) && fits_tma(p.v, p.keys) &&
         fits_tma(p.o, p.queries);
}

template <class T, int kHeadDim>
simt::Status variant(const Params& params, simt::Stream stream) {
#ifdef FEWSTEP_SM90
  if (is_for_sm90(params)) return sm90::variant<T, kHeadDim>(params, stream);
#endif
  return sm80::variant<T, kHeadDim>(params, stream);
}

// The first variant, in the order they are listed, that has the head dim or the nearest above it.
template <class T, int... kHeadDims>
simt::Status dispatch(const Params& params, simt::Stream stream, HeadDims<kHeadDims...>) {
  simt::Status status{-1, "no variant for this head_dim was built"};
  const bool found =
      ((params.head_dim <= kHeadDims && (status = variant<T, kHeadDims>(params, stream), true)) || ...);
  static_cast<void>(found);
  return status;
}

template <int... kHeadDims>
std::vector<int> listed(HeadDims<kHeadDims...>) {
  return {kHeadDims...};
}

}  // namespace

std::vector<int> head_dims() { return listed(Built{}); }

simt::Status attention_fwd(const Params& params, Type type, simt::Stream stream) {
  if (const char* message = refusal(params)) return {-1, message};
#ifndef FEWSTEP_BFLOAT16_ONLY
  if (type == Type::kFloat16) return dispatch<simt::half>(params, stream, Built{});
#endif
  if (type == Type::kBFloat16) return dispatch<simt::bfloat16>(params, stream, Built{});
  return {-1, "no variant for this type was built"};
}

}  // namespace attention
