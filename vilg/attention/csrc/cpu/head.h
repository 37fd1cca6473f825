/* Implements the functions of kernels.h, row_kernels.h and element_kernels.h for one instruction set. */
#pragma once
#include "adamw_loop.h"
#include "backward.h"
#include "convert_loops.h"
#include "element_kernels.h"
#include "forward.h"
#include "gelu.h"
#include "kernels.h"
#include "layer_norm.h"

namespace VILG_ISA {

using vilg::HeadIn;
using vilg::HeadOut;
using vilg::Layout;

/* Copies all rows of a head, in the order of the layout, into to[padded][D]. */
template <int D>
void read_head(const Layout& layout, Rows from, float* to) {
  for (int block = 0; block < layout.padded / kTile; ++block)
    read_block<D>(layout, block, from, to + int64_t(block) * kTile * D);
}

/* Prefetches keys and values of the next head, which this thread most likely computes next and which follows this
   one in memory. */
template <int D>
void prefetch_next_head(const Layout& layout, int block, const HeadIn& in) {
  prefetch_block<D, false>(layout, block, {vilg::element(in.k, D, in.type), in.k_row, in.type});
  prefetch_block<D, false>(layout, block, {vilg::element(in.v, D, in.type), in.v_row, in.type});
}

template <int D>
void forward(const Layout& layout, const HeadIn& in, const HeadOut& out, int first, int last, float* workspace) {
  alignas(64) ForwardScratch<D> s;
  s.keys = workspace;
  s.values = workspace + int64_t(layout.padded) * D;
  read_head<D>(layout, {in.k, in.k_row, in.type}, s.keys);
  read_head<D>(layout, {in.v, in.v_row, in.type}, s.values);
  for (int block = first; block < last; ++block) {
    prefetch_next_head<D>(layout, block, in);
    forward_block<D>(layout, block, in.scale, {in.q, in.q_row, in.type}, {out.out, out.out_row, in.type}, out.lse, s);
  }
}

/* Divides the workspace into the four arrays of the scratch. */
template <int D>
void divide(const Layout& layout, float* workspace, BackwardScratch<D>& s) {
  const int64_t one = int64_t(layout.padded) * D;
  s.keys = workspace;
  s.values = workspace + one;
  s.grad_keys = workspace + 2 * one;
  s.grad_values = workspace + 3 * one;
}

inline BackwardInputs inputs(const HeadIn& in) {
  return {{in.q, in.q_row, in.type},
          {in.k, in.k_row, in.type},
          {in.v, in.v_row, in.type},
          {in.out, in.out_row, in.type},
          {in.grad_out, in.grad_out_row, in.type},
          in.lse,
          in.scale};
}

template <int D>
void read_keys_and_values(const Layout& layout, const HeadIn& in, BackwardScratch<D>& s) {
  read_head<D>(layout, {in.k, in.k_row, in.type}, s.keys);
  read_head<D>(layout, {in.v, in.v_row, in.type}, s.values);
}

template <int D>
void clear_keys(int block, BackwardScratch<D>& s) {
  for (int64_t x = int64_t(block) * kTile * D; x < int64_t(block + 1) * kTile * D; x += kLanes)
    store(s.grad_keys + x, Vector{}), store(s.grad_values + x, Vector{});
}

template <int D>
void write_keys(const Layout& layout, int block, const HeadIn& in, const HeadOut& out, BackwardScratch<D>& s) {
  const int64_t at = int64_t(block) * kTile * D;
  write_block<D>(layout, block, s.grad_keys + at, in.scale, {out.grad_k, out.grad_k_row, in.type});
  write_block<D>(layout, block, s.grad_values + at, 1.0f, {out.grad_v, out.grad_v_row, in.type});
}

template <int D>
void backward(const Layout& layout, const HeadIn& in, const HeadOut& out, int, int, float* workspace) {
  alignas(64) BackwardScratch<D> s;
  divide<D>(layout, workspace, s);
  read_keys_and_values<D>(layout, in, s);
  for (int block = 0; block < layout.by_key.blocks; ++block) clear_keys<D>(block, s);
  for (int block = 0; block < layout.by_query.blocks; ++block) {
    prefetch_next_head<D>(layout, block, in);
    prefetch_block<D, true>(layout, block, {out.grad_k, out.grad_k_row, in.type});
    prefetch_block<D, true>(layout, block, {out.grad_v, out.grad_v_row, in.type});
    backward_queries<D, true>(layout, block, inputs(in), {out.grad_q, out.grad_q_row, in.type}, s);
  }
  for (int block = 0; block < layout.by_key.blocks; ++block) write_keys<D>(layout, block, in, out, s);
}

template <int D>
void backward_of_queries(const Layout& layout, const HeadIn& in, const HeadOut& out, int first, int last,
                         float* workspace) {
  alignas(64) BackwardScratch<D> s;
  divide<D>(layout, workspace, s);
  read_keys_and_values<D>(layout, in, s);
  for (int block = first; block < last; ++block)
    backward_queries<D, false>(layout, block, inputs(in), {out.grad_q, out.grad_q_row, in.type}, s);
}

template <int D>
void backward_of_keys(const Layout& layout, const HeadIn& in, const HeadOut& out, int first, int last,
                      float* workspace) {
  alignas(64) BackwardScratch<D> s;
  divide<D>(layout, workspace, s);
  for (int block = first; block < last; ++block) {
    read_block<D>(layout, block, {in.k, in.k_row, in.type}, s.keys + int64_t(block) * kTile * D);
    read_block<D>(layout, block, {in.v, in.v_row, in.type}, s.values + int64_t(block) * kTile * D);
    clear_keys<D>(block, s);
    backward_keys<D>(layout, block, inputs(in), s);
    write_keys<D>(layout, block, in, out, s);
  }
}

template <int D>
const vilg::Kernels* kernels_of_size() {
  static const vilg::Kernels kernels = {forward<D>, backward<D>, backward_of_queries<D>, backward_of_keys<D>};
  return &kernels;
}

inline const vilg::Kernels* kernels(int64_t head_size) {
  switch (head_size) {
    case 32: return kernels_of_size<32>();
    case 64: return kernels_of_size<64>();
    case 80: return kernels_of_size<80>();
    case 96: return kernels_of_size<96>();
    case 128: return kernels_of_size<128>();
    default: return nullptr;
  }
}

inline const vilg::ElementKernels* element_kernels() {
  static const vilg::ElementKernels kernels = {widen, narrow, add, multiply, times_vector, vector_times, adamw};
  return &kernels;
}

inline const vilg::RowKernels* row_kernels() {
  static const vilg::RowKernels kernels = {layer_norm, layer_norm_grad, gelu, gelu_grad};
  return &kernels;
}

}  // namespace VILG_ISA
