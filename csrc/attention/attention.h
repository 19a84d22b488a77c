// Attention as the host sees it.
#pragma once

#include "../simt/status.h"
#include "params.h"

namespace attention {

enum class Type { kBFloat16, kFloat16 };

// o = softmax(scale q k^T) v for every head of every sample, on `stream`: nothing is allocated, nothing
// waited for. Code -1 and a message where the arguments are none that the kernels take.
simt::Status attention_fwd(const Params& params, Type type, simt::Stream stream);

}  // namespace attention
