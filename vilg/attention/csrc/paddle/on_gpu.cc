#include "on_gpu.h"

#include "elements.h"

namespace vilg_gpu {
namespace {

using vilg::at;
using vilg::type_of;

constexpr int kHeader = 8;

struct Prepared {
  vilg_cuda_shape shape;
  vilg_cuda_layout by_query, by_key;
};

/* The number of elements of the packed layout with this header. The layout itself is not read. */
int64_t size_of(const int* header) {
  vilg::Layout layout;
  const int64_t size = vilg::read_layout(header, header, &layout);
  PD_CHECK(size > 0, "vilg attention: the layout is damaged or of another version");
  return size;
}

Prepared prepare(const Call& call, const Tensor& q) {
  PD_CHECK(call.headers.size() == 2 * kHeader, "vilg attention: on a GPU the layout must have two headers");
  PD_CHECK(call.layout.is_gpu() && call.layout.dtype() == phi::DataType::INT32,
           "vilg attention: the layout must be int32 on the GPU");
  Prepared p{{call.bshd[0], call.bshd[1], call.bshd[2], call.bshd[3], call.scale, type_of(q)}, {}, {}};
  const int* headers = call.headers.data();
  PD_CHECK(size_of(headers) + size_of(headers + kHeader) == call.layout.numel(),
           "vilg attention: the layout is damaged");
  p.by_query.packed = call.layout.data<int32_t>();
  p.by_key.packed = p.by_query.packed + size_of(headers);
  for (int i = 0; i < kHeader; ++i) p.by_query.header[i] = headers[i], p.by_key.header[i] = headers[kHeader + i];
  return p;
}

void succeed(int code) { PD_CHECK(code == 0, "vilg attention: CUDA error ", code); }

void* stream_of(const Tensor& x) { return reinterpret_cast<void*>(x.stream()); }

}  // namespace

std::vector<Tensor> Forward(const Call& call, const Tensor& q, const Tensor& k, const Tensor& v,
                            const int64_t (&starts)[3]) {
  const Prepared p = prepare(call, q);
  const Sizes& s = call.bshd;
  Tensor out = paddle::experimental::empty(s, q.dtype(), q.place());
  Tensor lse = paddle::experimental::empty({s[0], s[2], s[1]}, phi::DataType::FLOAT32, q.place());
  succeed(vilg_attention_cuda_forward(&p.shape, &p.by_query, {at(q, starts[0]), call.row}, {at(k, starts[1]), call.row},
                                      {at(v, starts[2]), call.row}, {out.data(), s[2] * s[3]}, lse.data<float>(),
                                      stream_of(q)));
  return {out, lse};
}

void Backward(const Call& call, const Tensor& q, const Tensor& k, const Tensor& v, const int64_t (&starts)[3],
              const Tensor& out, const Tensor& lse, const Tensor& grad_out, Tensor* grad_q, Tensor* grad_k,
              Tensor* grad_v) {
  const Prepared p = prepare(call, q);
  const int64_t narrow = call.bshd[2] * call.bshd[3];
  Tensor workspace = paddle::experimental::empty({vilg_attention_cuda_backward_workspace(&p.shape)},
                                                 phi::DataType::FLOAT32, q.place());
  succeed(vilg_attention_cuda_backward(
      &p.shape, &p.by_query, &p.by_key, {at(q, starts[0]), call.row}, {at(k, starts[1]), call.row},
      {at(v, starts[2]), call.row}, {out.data(), narrow}, lse.data<float>(), {grad_out.data(), narrow},
      {at(grad_q, starts[0]), call.row}, {at(grad_k, starts[1]), call.row}, {at(grad_v, starts[2]), call.row},
      workspace.data<float>(), stream_of(q)));
}

}  // namespace vilg_gpu
