/* Matrix products of 16-bit tensors on a CPU: products and sums in float32, rounded once.

   For bfloat16 the oneDNN library in Paddle's wheel uses the processor's instructions for it (AMX, AVX512-BF16). */
#include <algorithm>

#include "half.h"
#include "onednn.h"
#include "paddle/phi/kernels/matmul_grad_kernel.h"
#include "paddle/phi/kernels/matmul_kernel.h"

namespace vilg_half {
namespace {

/* A product of matrices, `count` times: x [count, m, k] or, if `x_turned`, [count, k, m]; y and out accordingly. */
struct Products {
  int64_t count, m, n, k;
  bool x_turned, y_turned;
  bool shared_y; /* all products have the same y */
};

/* Multiplications of a product below which a call of oneDNN takes longer than the product. Decoding has many of those:
   of the queries of one token with the keys of a head. */
constexpr int64_t kSmall = 1 << 18;

/* Sets `products` if the product of tensors of these sizes is a sequence of equal matrix products. */
bool as_products(const phi::DDim& x, const phi::DDim& y, bool x_turned, bool y_turned, Products* products) {
  const int rank = x.size();
  if (rank < 2 || y.size() < 2) return false;
  const int64_t m = x[rank - (x_turned ? 1 : 2)], k = x[rank - (x_turned ? 2 : 1)];
  const int64_t n = y[y.size() - (y_turned ? 2 : 1)];
  int64_t count = 1;
  for (int i = 0; i < rank - 2; ++i) count *= x[i];
  if (y.size() == 2) {
    *products = x_turned ? Products{count, m, n, k, true, y_turned, true}
                         : Products{1, count * m, n, k, false, y_turned, true};
    return true;
  }
  if (y.size() != rank) return false;
  for (int i = 0; i < rank - 2; ++i)
    if (x[i] != y[i]) return false;
  *products = {count, m, n, k, x_turned, y_turned, false};
  return true;
}

/* A product with one row or column: each of the `count` matrices times a vector. */
void multiply_vectors(const CPUContext& context, const Products& p, int type, const uint16_t* x, const uint16_t* y,
                      uint16_t* out) {
  const bool row = p.m == 1; /* x is the vector */
  const int64_t others = row ? p.n : p.m;
  /* The sums are along the rows of the matrix as it is stored. */
  const bool along = row ? p.y_turned : !p.x_turned;
  const int64_t rows = along ? others : p.k, width = along ? p.k : others;
  DenseTensor scratch = floats(context, {omp_get_max_threads(), rows + width});
  float* sums = scratch.data<float>();
#pragma omp parallel for schedule(static) if (p.count * p.k * others > 16384)
  for (int64_t product = 0; product < p.count; ++product) {
    const uint16_t* matrix = row ? y + (p.shared_y ? 0 : product * p.k * p.n) : x + product * p.m * p.k;
    const uint16_t* vector = row ? x + product * p.k : y + (p.shared_y ? 0 : product * p.k);
    (along ? vilg_times_vector : vilg_vector_times)(type, rows, width, matrix, vector, out + product * others,
                                                    sums + omp_get_thread_num() * (rows + width));
  }
}

constexpr int64_t kScratch = 1 << 18; /* elements of the float32 result that are rounded while they are in the cache */

/* Returns false if the library has no such product for this processor. */
bool multiply(const CPUContext& context, const Products& p, const uint16_t* x, const uint16_t* y, uint16_t* out) {
  const int64_t rows = std::min(p.m, std::max<int64_t>(64, kScratch / std::max<int64_t>(p.n, 1)));
  DenseTensor scratch = floats(context, {rows * p.n});
  float* sums = scratch.data<float>();
  for (int64_t product = 0; product < p.count; ++product) {
    const uint16_t* of_x = x + product * p.m * p.k;
    const uint16_t* of_y = p.shared_y ? y : y + product * p.k * p.n;
    for (int64_t first = 0; first < p.m; first += rows) {
      const int64_t some = std::min(rows, p.m - first);
      const uint16_t* from = of_x + (p.x_turned ? first : first * p.k);
      if (dnnl_gemm_bf16bf16f32(p.x_turned ? 'T' : 'N', p.y_turned ? 'T' : 'N', some, p.n, p.k, 1.0f, from,
                                p.x_turned ? p.m : p.k, of_y, p.y_turned ? p.k : p.n, 0.0f, sums, p.n) != 0)
        return false;
      vilg_narrow(VILG_BFLOAT16, some * p.n, sums, out + (product * p.m + first) * p.n, omp_get_max_threads());
    }
  }
  return true;
}

template <typename T>
void Matmul(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, bool x_turned, bool y_turned,
            DenseTensor* out) {
  Products p;
  if (x.numel() > 0 && y.numel() > 0 && as_products(x.dims(), y.dims(), x_turned, y_turned, &p)) {
    const auto *of_x = reinterpret_cast<const uint16_t*>(x.data<T>()), *of_y = reinterpret_cast<const uint16_t*>(y.data<T>());
    auto* to = reinterpret_cast<uint16_t*>(context.template Alloc<T>(out));
    const bool small = p.m * p.n * p.k < kSmall;
    if (small && (p.m == 1 || p.n == 1)) return multiply_vectors(context, p, kElement<T>, of_x, of_y, to);
    if (kElement<T> == VILG_BFLOAT16 && !(small && p.count > 1) && multiply(context, p, of_x, of_y, to)) return;
  }
  Half<&phi::MatmulKernel<float, CPUContext>>::run<T>(context, x, y, x_turned, y_turned, out);
}

/* Whether the tensors have equal sizes except in the last two axes, so that no gradient has to be summed. */
bool equal_batches(const phi::DDim& x, const phi::DDim& y) {
  if (x.size() != y.size() || x.size() < 2) return false;
  for (int i = 0; i < x.size() - 2; ++i)
    if (x[i] != y[i]) return false;
  return true;
}

template <typename T>
void MatmulGrad(const CPUContext& context, const DenseTensor& x, const DenseTensor& y, const DenseTensor& grad,
                bool x_turned, bool y_turned, DenseTensor* grad_x, DenseTensor* grad_y) {
  if (!equal_batches(x.dims(), y.dims()))
    return Half<&phi::MatmulGradKernel<float, CPUContext>>::run<T>(context, x, y, grad, x_turned, y_turned, grad_x,
                                                                   grad_y);
  if (grad_x && x_turned) Matmul<T>(context, y, grad, y_turned, true, grad_x);
  if (grad_x && !x_turned) Matmul<T>(context, grad, y, false, !y_turned, grad_x);
  if (grad_y && y_turned) Matmul<T>(context, grad, x, true, x_turned, grad_y);
  if (grad_y && !y_turned) Matmul<T>(context, x, grad, !x_turned, false, grad_y);
}

template <typename T>
void register_all() {
  register_kernel<T, &Matmul<T>>("matmul");
  register_kernel<T, &MatmulGrad<T>>("matmul_grad");
}

const bool registered = (register_all<phi::bfloat16>(), register_all<phi::float16>(), true);

}  // namespace
}  // namespace vilg_half
