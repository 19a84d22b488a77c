// The four tensors as TMA moves them: boxes of rows of one head of one sample, 64 columns wide.
#pragma once

#include "../../simt.h"
#include "../params.h"
#include "shape.h"

namespace attention::sm90 {

// A tensor and how far its coordinates go for the next head and the next sample: 0 where all share one.
struct Map {
  simt::TensorMap tensor;
  int head_step, batch_step;
};

struct Maps {
  Map q, k, v, o;
};

// [head_dim, rows, heads, batch]. What lies beyond head_dim or beyond the last row becomes zero, and is not
// stored.
inline simt::Status map_view(Map& map, const View& view, const Params& params, int rows, int box_rows) {
  map.head_step = view.head_stride != 0;
  map.batch_step = view.batch_stride != 0;
  const int heads = map.head_step ? params.heads : 1, batch = map.batch_step ? params.batch : 1;
  const auto bytes = [](std::int64_t stride, int size) {
    return size == 1 ? std::uint64_t{16} : static_cast<std::uint64_t>(2 * stride);  // 16: any would do
  };
  simt::TensorView tensor{
      view.data,
      {std::uint64_t(params.head_dim), std::uint64_t(rows), std::uint64_t(heads), std::uint64_t(batch)},
      {bytes(view.row_stride, rows), bytes(view.head_stride, heads), bytes(view.batch_stride, batch)},
      {kPanel, std::uint32_t(box_rows), 1, 1},
      params.promotion,
  };
  return simt::encode(map.tensor, tensor);
}

// Each warp stores its own 16 rows of o.
template <class S>
simt::Status make_maps(Maps& maps, const Params& params) {
  simt::Status status = map_view(maps.q, params.q, params, params.queries, kRows);
  if (status.code == 0) status = map_view(maps.k, params.k, params, params.keys, S::kKeys);
  if (status.code == 0) status = map_view(maps.v, params.v, params, params.keys, S::kKeys);
  if (status.code == 0) status = map_view(maps.o, params.o, params, params.queries, kRows / kWarps);
  return status;
}

}  // namespace attention::sm90
