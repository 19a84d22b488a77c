// Attention as the host sees it.
#pragma once

#include <vector>

#include "../simt/status.h"
#include "params.h"

namespace attention {

enum class Type { kBFloat16, kFloat16 };

// o = softmax(scale q k^T) v for every head of every sample, on `stream`: nothing is allocated, nothing
// waited for. Code -1 and a message where the arguments are none that the kernels take.
simt::Status attention_fwd(const Params& params, Type type, simt::Stream stream);

// The head dims that have a variant of their own in this build, ascending. A smaller one is served by the
// nearest above, a larger one by none.
std::vector<int> head_dims();

}  // namespace attention
