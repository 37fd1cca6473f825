/* Divides the rows among threads and implements the C interface of rows.h. */
#include "../rows.h"

#include <algorithm>

#include "instruction_set.h"

namespace {

constexpr int64_t kRows = 64;      /* rows of a block, which has its own partial sums of grad_weight and grad_bias */
constexpr int64_t kNumbers = 8192; /* elements that a thread processes at a time */

int64_t blocks(int64_t rows) { return (rows + kRows - 1) / kRows; }

/* Calls work(first, last) in parallel for chunks of `each` of `count` items. */
template <typename F>
void share_out(int64_t count, int64_t each, int threads, F work) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t turn = 0; turn < (count + each - 1) / each; ++turn)
    work(turn * each, std::min(count, (turn + 1) * each));
}

}  // namespace

extern "C" void vilg_layer_norm(int64_t rows, int64_t width, const float* x, const float* weight, const float* bias,
                                float epsilon, float* out, int threads) {
  const vilg::LayerNormIn in{x, weight, bias, nullptr, width, epsilon};
  const vilg::RowKernels* kernels = vilg::instruction_set().rows();
  share_out(rows, kRows, threads, [&](int64_t first, int64_t last) { kernels->layer_norm(in, first, last, out); });
}

extern "C" int64_t vilg_layer_norm_grad_workspace(int64_t rows, int64_t width) { return blocks(rows) * 2 * width; }

extern "C" void vilg_layer_norm_grad(int64_t rows, int64_t width, const float* x, const float* weight,
                                     const float* grad_out, float epsilon, float* grad_x, float* grad_weight,
                                     float* grad_bias, float* workspace, int threads) {
  const vilg::LayerNormIn in{x, weight, nullptr, grad_out, width, epsilon};
  const vilg::RowKernels* kernels = vilg::instruction_set().rows();
  share_out(rows, kRows, threads, [&](int64_t first, int64_t last) {
    float* sums = workspace + first / kRows * 2 * width;
    std::fill(sums, sums + 2 * width, 0.0f);
    kernels->layer_norm_grad(in, first, last, grad_x, sums, sums + width);
  });
  /* The partial sums are added in a fixed order, for any number of threads. */
  std::fill(grad_weight, grad_weight + width, 0.0f);
  std::fill(grad_bias, grad_bias + width, 0.0f);
  for (int64_t block = 0; block < blocks(rows); ++block) {
    const float* sums = workspace + block * 2 * width;
    for (int64_t d = 0; d < width; ++d) grad_weight[d] += sums[d], grad_bias[d] += sums[width + d];
  }
}

extern "C" void vilg_gelu(int64_t count, const float* x, float* out, int threads) {
  const vilg::RowKernels* kernels = vilg::instruction_set().rows();
  share_out(count, kNumbers, threads,
            [&](int64_t first, int64_t last) { kernels->gelu(x + first, last - first, out + first); });
}

extern "C" void vilg_gelu_grad(int64_t count, const float* x, const float* grad_out, float* grad_x, int threads) {
  const vilg::RowKernels* kernels = vilg::instruction_set().rows();
  share_out(count, kNumbers, threads, [&](int64_t first, int64_t last) {
    kernels->gelu_grad(x + first, grad_out + first, last - first, grad_x + first);
  });
}
