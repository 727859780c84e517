// What the edges between regions say, and the gradient of its weights: geometry.py. A network of one hidden layer, and a kernel around a
// place for each output, on a vector of edges at a time, whose hidden units stay in the first cache and are computed again going back.
//
// Letters: E edges of an item, G numbers that describe one, K hidden units, O outputs, L lanes, N vectors of a block.
#include "simd.h"

#include <algorithm>
#include <vector>

struct Edges {  // as in native/__init__.py
  int64_t items, edges, hidden, outputs, kernel, threads;
  const void* geometry;    // [B,E,G]
  const void* weights;     // hidden [K,G+1] and output [O,K+1], each with its bias last; of kernels μ, log σ and κ, [O,4]
  void *said, *content;    // [B,O,E], for the backward pass its gradient; [B,E,G], null in the backward pass
  void* d_weights;         // for each thread, zero before
};

namespace {

// Φ(x), the share of a normal distribution below x, given e^(−x²/2): to 1e-7 (Abramowitz and Stegun, 7.1.26).
inline Vec<float> below(Vec<float> x, Vec<float> density) {
  const Vec<float> size = x < 0 ? -x : x, t = inverse(1 + size * 0.231641888f);
  Vec<float> p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec<float> tail = p * t * density * 0.5f;
  return x < 0 ? tail : 1 - tail;
}
inline Vec<double> below(Vec<double> x, Vec<double>) {
  for (int l = 0; l < Simd<double>::LANES; ++l) x[l] = std::erfc(x[l] * -0.70710678118654752) / 2;
  return x;
}

template <class T>
struct Network {
  using V = Vec<T>;
  static constexpr int64_t L = Simd<T>::LANES, N = 4, G = 6, SQUASHED = 4;
  const Edges& p;
  const int64_t E = p.edges, K = p.hidden, O = p.outputs;
  const T *first = static_cast<const T*>(p.weights), *second = first + K * (G + 1), *kernel = second + O * (K + 1);
  const int64_t count = K * (G + 1) + O * (K + 1) + (p.kernel ? 4 * O : 0);  // of weights

  struct Work {
    V at[2][N];                         // Δx, Δy
    V content[G + 1][N];                // and ones
    std::vector<T> spread;              // σ⁻², [O]
    Scratch<V> memory;
    V *hidden, *slope, *said, *d_hidden;  // [K+1,N] with ones last, [K,N], [O,N], [K,N]
    V *d_first, *d_second, *d_kernel;     // gradients of each lane
  };

  void carve(Work& work) const {
    V* free = work.memory.take((3 * K + 1 + O) * N + count);
    work.hidden = free, work.slope = work.hidden + (K + 1) * N, work.d_hidden = work.slope + K * N;
    work.said = work.d_hidden + K * N, work.d_first = work.said + O * N;
    work.d_second = work.d_first + K * (G + 1), work.d_kernel = work.d_second + O * (K + 1);
    std::fill_n(work.d_first, count, V{});
    std::fill_n(work.hidden + K * N, N, V{} + 1);
    std::fill_n(work.content[G], N, V{} + 1);
    for (int64_t o = 0; o < O && p.kernel; ++o) work.spread.push_back(std::exp(-2 * kernel[4 * o + 2]));
  }

  // The content of up to N · L edges, zero beyond them.
  void read(Work& work, const T* geometry, int64_t edges, T* content) const {
    for (int64_t g = 0; g < G; ++g)
      for (int64_t i = 0; i < N * L; ++i)
        reinterpret_cast<T*>(work.content[g])[i] = i < edges ? geometry[i * G + g] : 0;
    for (int64_t n = 0; n < N; ++n) {
      work.at[0][n] = work.content[0][n], work.at[1][n] = work.content[1][n];
      for (int64_t g = 0; g < SQUASHED; ++g) work.content[g][n] = 2 * logistic(4 * work.content[g][n]) - 1;  // tanh 2x
    }
    for (int64_t g = 0; g < G && content; ++g)
      for (int64_t i = 0; i < edges; ++i) content[i * G + g] = reinterpret_cast<T*>(work.content[g])[i];
  }

  void activate(Work& work, bool gradient) const {
    product<false>(K, N, G + 1, Matrix<const T>{first, G + 1, 1}, Matrix<const V>{work.content[0], N, 1}, Matrix<V>{work.hidden, N, 1});
    for (int64_t i = 0; i < K * N; ++i) {
      const V x = work.hidden[i], half = x * x * T(0.5), density = exp(-(half > 80 ? V{} + 80 : half)), share = below(x, density);
      work.hidden[i] = x * share;
      if (gradient) work.slope[i] = share + x * density * T(0.39894228040143268);
    }
  }

  // |δ − μ|² / σ² of output o.
  V distance(const Work& work, int64_t o, int64_t n) const {
    const V x = work.at[0][n] - kernel[4 * o], y = work.at[1][n] - kernel[4 * o + 1];
    return (x * x + y * y) * work.spread[o];
  }

  void forward(Work& work) const {
    activate(work, false);
    product<false>(O, N, K + 1, Matrix<const T>{second, K + 1, 1}, Matrix<const V>{work.hidden, N, 1}, Matrix<V>{work.said, N, 1});
    for (int64_t o = 0; o < O && p.kernel; ++o)
      for (int64_t n = 0; n < N; ++n) work.said[o * N + n] -= kernel[4 * o + 3] * log(1 + distance(work, o, n));
  }

  void backward(Work& work) const {
    activate(work, true);
    const Matrix<const V> said{work.said, N, 1};
    product<false>(K, N, O, Matrix<const T>{second, 1, K + 1}, said, Matrix<V>{work.d_hidden, N, 1});
    for (int64_t i = 0; i < K * N; ++i) work.d_hidden[i] *= work.slope[i];
    product<true>(O, K + 1, N, said, Matrix<const V>{work.hidden, 1, N}, Matrix<V>{work.d_second, K + 1, 1});
    product<true>(K, G + 1, N, Matrix<const V>{work.d_hidden, N, 1}, Matrix<const V>{work.content[0], 1, N},
                  Matrix<V>{work.d_first, G + 1, 1});
    for (int64_t o = 0; o < O && p.kernel; ++o)
      for (int64_t n = 0; n < N; ++n) {
        const V square = distance(work, o, n), grad = work.said[o * N + n];
        const V pull = grad * kernel[4 * o + 3] / (1 + square) * 2;
        V* sums = work.d_kernel + 4 * o;
        for (int64_t i = 0; i < 2; ++i) sums[i] += pull * (work.at[i][n] - kernel[4 * o + i]) * work.spread[o];
        sums[2] += pull * square;
        sums[3] -= grad * log(1 + square);
      }
  }

  // One block of an item: its edges from `start` on.
  void block(Work& work, int64_t item, int64_t start, bool gradient) const {
    const int64_t edges = std::min(N * L, E - start), from = (item * E + start) * G;
    T* content = gradient ? nullptr : static_cast<T*>(p.content) + from;
    read(work, static_cast<const T*>(p.geometry) + from, edges, content);
    T* said = static_cast<T*>(p.said) + item * O * E + start;
    if (!gradient) {
      forward(work);
      for (int64_t o = 0; o < O; ++o) std::copy_n(reinterpret_cast<T*>(work.said + o * N), edges, said + o * E);
      return;
    }
    std::fill_n(work.said, O * N, V{});
    for (int64_t o = 0; o < O; ++o) std::copy_n(said + o * E, edges, reinterpret_cast<T*>(work.said + o * N));
    backward(work);
  }

  void run(bool gradient) const {
    const int64_t blocks = (E + N * L - 1) / (N * L), total = p.items * blocks;
#pragma omp parallel num_threads(p.threads)
#pragma omp for schedule(static, 1)
    for (int64_t thread = 0; thread < p.threads; ++thread) {  // each has blocks and sums of its own
      Work work;
      carve(work);
      for (int64_t i = total * thread / p.threads; i < total * (thread + 1) / p.threads; ++i)
        block(work, i / blocks, i % blocks * N * L, gradient);
      for (int64_t i = 0; i < count && gradient; ++i)
        static_cast<T*>(p.d_weights)[thread * count + i] = sum<T>(work.d_first[i]);
    }
  }
};

}  // namespace

extern "C" void edges(const Edges* problem) { Network<SCALAR>{*problem}.run(false); }
extern "C" void edges_backward(const Edges* problem) { Network<SCALAR>{*problem}.run(true); }
