/* Divides the work among threads and implements the C interface of attention.h. */
#include "../attention.h"

#include <omp.h>

#include <algorithm>

#include "instruction_set.h"

namespace {

using vilg::Layout;

constexpr int kTile = 32;

bool read(const int32_t* packed, int64_t size, Layout* layout) {
  constexpr int64_t kHeader = 8;
  return size >= kHeader && vilg::read_layout(packed, packed, layout) == size;
}

int prepare(const vilg_shape* shape, const int32_t* packed, int64_t size, Layout* layout,
            const vilg::Kernels** kernels) {
  if (!read(packed, size, layout)) return VILG_BAD_LAYOUT;
  if (layout->queries != kTile || layout->keys != kTile) return VILG_BAD_TILE;
  if (layout->length != shape->length) return VILG_OTHER_LENGTH;
  *kernels = vilg::instruction_set().attention(shape->head_size);
  return *kernels ? VILG_OK : VILG_BAD_HEAD_SIZE;
}

/* The (head, block) pairs, in order of heads and then blocks, are divided into one contiguous range for each
   thread, with about the same number of tiles. A Place is a boundary between ranges. */
struct Place {
  int64_t head;
  int block;
};

/* The beginning of the range of `thread`. */
Place cut_at(const vilg::TileCSR& side, int64_t heads, int thread, int threads) {
  const int64_t tiles = side.starts[side.blocks], at = heads * tiles * thread / threads;
  if (!tiles || at >= heads * tiles) return {heads, 0};
  const int32_t* block = std::lower_bound(side.starts, side.starts + side.blocks, int32_t(at % tiles));
  const int64_t head = at / tiles;
  return block == side.starts + side.blocks ? Place{head + 1, 0} : Place{head, int(block - side.starts)};
}

/* Calls work(head, first block, end block, thread) in all threads, once for each head in the range of a thread. */
template <typename F>
void share_out(const vilg::TileCSR& side, int64_t heads, int threads, F work) {
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num(), count = omp_get_num_threads();
    const Place begin = cut_at(side, heads, thread, count), end = cut_at(side, heads, thread + 1, count);
    for (int64_t head = begin.head; head <= end.head; ++head) {
      const int first = head == begin.head ? begin.block : 0, last = head == end.head ? end.block : side.blocks;
      if (first < last) work(head, first, last, thread);
    }
  }
}

}  // namespace

extern "C" const char* vilg_attention_error(int code) {
  switch (code) {
    case VILG_OK: return "no error";
    case VILG_BAD_LAYOUT: return "the layout is damaged or of another version";
    case VILG_OTHER_LENGTH: return "the layout describes another number of positions";
    case VILG_BAD_HEAD_SIZE: return "the head size is none of 32, 64, 80, 96, 128";
    case VILG_BAD_TILE: return "the layout's tiles are not 32 x 32";
    default: return "unknown error";
  }
}

static int64_t workspace(const vilg_shape* shape, const int32_t* packed, int64_t size, int threads, int arrays) {
  Layout layout;
  return read(packed, size, &layout) ? int64_t(arrays) * threads * layout.padded * shape->head_size : 0;
}

extern "C" int64_t vilg_attention_forward_workspace(const vilg_shape* shape, const int32_t* packed, int64_t size,
                                                    int threads) {
  return workspace(shape, packed, size, threads, 2);
}

extern "C" int64_t vilg_attention_backward_workspace(const vilg_shape* shape, const int32_t* packed, int64_t size,
                                                     int threads) {
  return workspace(shape, packed, size, threads, 4);
}

extern "C" int vilg_attention_forward(const vilg_shape* shape, const int32_t* packed, int64_t size, const void* q,
                                      int64_t q_row, const void* k, int64_t k_row, const void* v, int64_t v_row,
                                      void* out, int64_t out_row, float* lse, float* workspace, int threads) {
  Layout layout;
  const vilg::Kernels* kernels;
  if (const int error = prepare(shape, packed, size, &layout, &kernels)) return error;
  const int64_t S = shape->length, H = shape->heads, D = shape->head_size;
  const int64_t of_thread = 2 * int64_t(layout.padded) * D;
  share_out(layout.by_query, shape->batch * H, threads, [&](int64_t head, int first, int last, int thread) {
    const int64_t b = head / H * S, h = head % H * D;
    vilg::HeadIn in{};
    in.q = vilg::element(q, b * q_row + h, shape->type), in.q_row = q_row;
    in.k = vilg::element(k, b * k_row + h, shape->type), in.k_row = k_row;
    in.v = vilg::element(v, b * v_row + h, shape->type), in.v_row = v_row;
    in.scale = shape->scale, in.type = shape->type;
    vilg::HeadOut to{};
    to.out = vilg::element(out, b * out_row + h, shape->type), to.out_row = out_row;
    to.lse = lse + head * S;
    kernels->forward(layout, in, to, first, last, workspace + thread * of_thread);
  });
  return VILG_OK;
}

extern "C" int vilg_attention_backward(const vilg_shape* shape, const int32_t* packed, int64_t size, const void* q,
                                       int64_t q_row, const void* k, int64_t k_row, const void* v, int64_t v_row,
                                       const void* out, int64_t out_row, const float* lse, const void* grad_out,
                                       int64_t grad_out_row, void* grad_q, int64_t grad_q_row, void* grad_k,
                                       int64_t grad_k_row, void* grad_v, int64_t grad_v_row, float* workspace,
                                       int threads) {
  Layout layout;
  const vilg::Kernels* kernels;
  if (const int error = prepare(shape, packed, size, &layout, &kernels)) return error;
  const int64_t S = shape->length, H = shape->heads, D = shape->head_size, heads = shape->batch * H;
  const int64_t of_thread = 4 * int64_t(layout.padded) * D;
  auto with = [&](vilg::Work work) {
    return [&, work](int64_t head, int first, int last, int thread) {
      const int64_t b = head / H * S, h = head % H * D;
      vilg::HeadIn in{};
      in.q = vilg::element(q, b * q_row + h, shape->type), in.q_row = q_row;
      in.k = vilg::element(k, b * k_row + h, shape->type), in.k_row = k_row;
      in.v = vilg::element(v, b * v_row + h, shape->type), in.v_row = v_row;
      in.out = vilg::element(out, b * out_row + h, shape->type), in.out_row = out_row;
      in.grad_out = vilg::element(grad_out, b * grad_out_row + h, shape->type), in.grad_out_row = grad_out_row;
      in.lse = lse + head * S;
      in.scale = shape->scale, in.type = shape->type;
      vilg::HeadOut to{};
      to.grad_q = vilg::element(grad_q, b * grad_q_row + h, shape->type), to.grad_q_row = grad_q_row;
      to.grad_k = vilg::element(grad_k, b * grad_k_row + h, shape->type), to.grad_k_row = grad_k_row;
      to.grad_v = vilg::element(grad_v, b * grad_v_row + h, shape->type), to.grad_v_row = grad_v_row;
      work(layout, in, to, first, last, workspace + thread * of_thread);
    };
  };
  if (heads >= threads) { /* a thread computes whole heads, and each tile once */
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num(), count = omp_get_num_threads();
      for (int64_t head = heads * thread / count; head < heads * (thread + 1) / count; ++head)
        with(kernels->backward)(head, 0, 0, thread);
    }
  } else { /* each tile is computed twice, for dQ and for dK and dV, so that no two threads add to the same row */
    share_out(layout.by_query, heads, threads, with(kernels->backward_queries));
    share_out(layout.by_key, heads, threads, with(kernels->backward_keys));
  }
  return VILG_OK;
}
