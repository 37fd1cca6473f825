/* The tanh form of GELU: x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).

   (1 + tanh(u)) / 2 is the logistic function of 2 u, which equals 1 / (1 + 2^-t) with t = 2 u / ln 2. */
#pragma once
#include "vector.h"

namespace VILG_ISA {

constexpr float kCubic = 0.044715f, kSlope = 2.30220820f; /* 2 sqrt(2 / pi) / ln 2 */

/* (1 + tanh(u)) / 2 */
inline Vector gate(Vector x) {
  const Vector falling = x * (x * x * -(kSlope * kCubic) - kSlope); /* -t */
  return 1.0f / (1.0f + exp2(falling > all(126.0f) ? all(126.0f) : falling)); /* NaN stays NaN */
}

struct Gelu {
  const float* x;
  Vector operator()(Vector x) const { return x * gate(x); }
  Vector at(int64_t i) const { return (*this)(load(x + i)); }
  Vector at(int64_t i, int64_t count) const { return (*this)(load_some(x + i, count)); }
};

/* The gradient of x: (gate + x gate (1 - gate) 2 du/dx) * grad_out. `slope` is 2 du/dx. */
struct GeluGrad {
  const float *x, *grad_out;
  Vector operator()(Vector x, Vector grad) const {
    const Vector open = gate(x);
    const Vector slope = x * x * (3 * kSlope * kCubic * 0.693147181f) + kSlope * 0.693147181f;
    return grad * (open + x * open * (1.0f - open) * slope);
  }
  Vector at(int64_t i) const { return (*this)(load(x + i), load(grad_out + i)); }
  Vector at(int64_t i, int64_t count) const {
    return (*this)(load_some(x + i, count), load_some(grad_out + i, count));
  }
};

/* out[i] = f.at(i) for `count` elements; the last incomplete vector is padded. */
template <typename F>
inline void map(F f, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, f.at(i));
  if (i < count) store_some(out + i, f.at(i, count - i), count - i);
}

inline void gelu(const float* x, int64_t count, float* out) { map(Gelu{x}, count, out); }

inline void gelu_grad(const float* x, const float* grad_out, int64_t count, float* grad_x) {
  map(GeluGrad{x, grad_out}, count, grad_x);
}

}  // namespace VILG_ISA
