// Attention as the host sees it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "../simt/status.h"
#include "params.h"

namespace attention {

enum class Type { kBFloat16, kFloat16 };

// o = softmax(scale q k^T) v for every head of every sample, on `stream`: nothing is allocated, nothing
// waited for. Code -1 and a message where the arguments are none that the kernels take.
//
// `design` is the one of `designs` that runs, or empty: the first. After it may come +l2_none or +l2_256: a
// miss of the copies of sm_90 then brings no more than it asked for to L2, or 256 bytes, and not 128. Tensors
// that TMA does not take go to the kernel of sm_80 whichever is asked for.
simt::Status attention_fwd(const Params& params, Type type, std::string_view design, simt::Stream stream);

// The head dims that have a variant of their own in this build, ascending. A smaller one is served by the
// nearest above, a larger one by none.
std::vector<int> head_dims();

// The designs of the kernel of sm_90 that this build has for a head dim in bfloat16, the default first;
// sm90/designs.h tells what each is. None where that kernel or a variant for the head dim was not built.
std::vector<std::string> designs(int head_dim);

}  // namespace attention
