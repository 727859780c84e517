// The cross graph of all pairs, fused: (3), (4) and the terms of (5) in model.py that need it, and their gradient. Captions are taken as
// many at a time as a vector has lanes, lane l of every vector belonging to the l-th of them, so that no sum runs across lanes; regions
// come in rows of six, whose similarities to all words stay in the first cache. Nothing wider than a score is written.
//
// Relations T of a caption join few of its words: only those whose row (F at most) or column (S at most) holds something are looked at,
// and only between them T has a gradient.
//
// Letters: B images, C captions, R regions, W words, H heads of width d, K hidden units of g, Q channels of relations, G of images and
// T of captions, L lanes; n ≤ R real regions of an image.
#include "narrow.h"
#include "simd.h"

#include <algorithm>
#include <cstring>
#include <vector>

struct Problem {  // as in native/__init__.py
  int64_t images, captions, regions, words, heads, width, hidden, channels, gather, threads;
  // nodes [B,R,H,d] (bfloat16 in forward_narrow), relations [B,Q,R,R], π [B,R], and the same of captions; λ [2];
  // u [H], hidden weights [K,H] and biases [K], output weights [K] and bias of either g
  const void *a, *a_relations, *a_share, *b, *b_relations, *b_share, *temperature, *word_g, *region_g;
  const void *a_mask, *b_mask;               // bool [B,R], [C,W]
  void *by_words, *by_regions, *by_edges;    // [B,C]: scores, or for the backward pass their gradients
  // gradients, zero before; from b on one for each thread
  void *d_a, *d_a_relations, *d_a_share, *d_b, *d_b_relations, *d_b_share, *d_temperature, *d_word_g, *d_region_g;
};

namespace {

// How head similarities are computed: C[m,n] = Σ_k A[m,k] B[k,n], of which B and C are vectors.
template <class T>
struct Wide {
  typedef T Entry;                // of A, and a lane of B
  static constexpr int PER = 1;   // numbers in an entry
  static constexpr int TALL = ROWS, STEP = 1;  // M at most, and of what K is a multiple
  struct State {};  // of a thread
  static void product(State&, int64_t M, int64_t N, int64_t K, const T* A, const Vec<T>* B, Vec<T>* C) {
    ::product<false>(M, N, K, Matrix<const T>{A, K, 1}, Matrix<const Vec<T>>{B, N, 1}, Matrix<Vec<T>>{C, N, 1});
  }
  static Vec<T> exp(Vec<T> x) { return ::exp(x); }
  static Vec<T> logistic(Vec<T> x) { return ::logistic(x); }
};

template <class T, class Nodes = Wide<T>>
struct Cross {
  using V = Vec<T>;
  using Entry = typename Nodes::Entry;
  static constexpr int L = Simd<T>::LANES, TALL = Nodes::TALL;
  static constexpr size_t SIZE = sizeof(Entry) / Nodes::PER;  // bytes of a number of a node
  static const T* in(const void* data) { return static_cast<const T*>(data); }

  struct Image {
    int64_t n = 0;
    std::vector<int64_t> region;        // places of the real ones
    std::vector<Entry> a;                // [H,n,E]
    std::vector<T> relations, share;     // [Q,n,n], [n]
  };
  struct Captions {  // up to L of them
    int64_t start, count, W;            // W: of the longest
    V *b, *mask, *share;                // [H,E,W], [W], [W]
    int64_t F, S;
    std::vector<int64_t> first, second;  // [F,L], [S,L]: words of the rows and of the columns that are looked at, −1 = none
    V *relations, *said;                // T[w,v] of them and π_w T[w,v], [Q,F,S]
    V* rows;                            // [H,W,L,⌈d/L⌉]: b again with d innermost; only for gradients
  };

  const Problem& p;
  const int64_t B, C, R, W, H, d, K, Q, D, E;  // D = ⌈d/L⌉; E entries of a head, zero beyond d
  std::vector<Image> images;

  explicit Cross(const Problem& problem)
      : p(problem), B(p.images), C(p.captions), R(p.regions), W(p.words), H(p.heads), d(p.width), K(p.hidden), Q(p.channels),
        D((d + L - 1) / L), E((d + Nodes::PER * Nodes::STEP - 1) / (Nodes::PER * Nodes::STEP) * Nodes::STEP), images(B) {}

  // d numbers of head h of a node.
  const char* head(const void* nodes, int64_t node, int64_t h) const {
    return static_cast<const char*>(nodes) + (node * H + h) * d * SIZE;
  }

  // ---- packing ----

  void pack(int64_t index) {
    Image& image = images[index];
    const auto* mask = static_cast<const bool*>(p.a_mask) + index * R;
    for (int64_t r = 0; r < R; ++r)
      if (mask[r]) image.region.push_back(r);
    const int64_t n = image.n = image.region.size();
    image.a.resize(H * n * E);
    image.relations.resize(Q * n * n);
    image.share.resize(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t node = index * R + image.region[i];
      for (int64_t h = 0; h < H; ++h) std::memcpy(image.a.data() + (h * n + i) * E, head(p.a, node, h), d * SIZE);
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t j = 0; j < n; ++j)
          image.relations[(q * n + i) * n + j] = in(p.a_relations)[row_of(index, q, image.region[i], R) + image.region[j]];
      image.share[i] = in(p.a_share)[node];
    }
  }

  Captions pack(int64_t group, Scratch<V>& memory, bool gradient) const {
    Captions g;
    g.start = group * L;
    g.count = std::min<int64_t>(L, C - g.start);
    const auto* mask = static_cast<const bool*>(p.b_mask) + g.start * W;
    g.W = 1;
    for (int64_t l = 0; l < g.count; ++l)
      for (int64_t w = g.W; w < W; ++w)
        if (mask[l * W + w]) g.W = w + 1;
    const int64_t M = g.W;
    choose(g, true, g.first), choose(g, false, g.second);
    g.F = g.first.size() / L, g.S = g.second.size() / L;
    const int64_t pairs = Q * g.F * g.S;
    g.b = memory.take(H * E * M + 2 * M + 2 * pairs + (gradient ? H * M * L * D : 0));
    g.mask = g.b + H * E * M;
    g.share = g.mask + M;
    g.relations = g.share + M;
    g.said = g.relations + pairs;
    g.rows = g.said + pairs;
    std::fill_n(g.b, g.rows + (gradient ? H * M * L * D : 0) - g.b, V{});
    for (int64_t l = g.count; l < L; ++l) g.mask[0][l] = 1;  // no caption, but no division by zero either
    std::vector<Entry> word(E);
    for (int64_t l = 0; l < g.count; ++l) {
      for (int64_t w = 0; w < M; ++w) {
        const int64_t node = (g.start + l) * W + w;
        g.mask[w][l] = mask[l * W + w];
        g.share[w][l] = in(p.b_share)[node];
        for (int64_t h = 0; h < H; ++h) {
          std::memcpy(word.data(), head(p.b, node, h), d * SIZE);
          Entry* column = reinterpret_cast<Entry*>(g.b + h * E * M + w) + l;
          for (int64_t k = 0; k < E; ++k) column[k * M * L] = word[k];
          if (gradient) std::copy_n(word.data(), d, reinterpret_cast<T*>(g.rows + ((h * M + w) * L + l) * D));
        }
      }
      related_words(g, l, [&](int64_t q, int64_t i, int64_t j, int64_t w, int64_t v) {
        const T relation = in(p.b_relations)[row_of(g.start + l, q, w, W) + v];
        g.relations[(q * g.F + i) * g.S + j][l] = relation;
        g.said[(q * g.F + i) * g.S + j][l] = g.share[w][l] * relation;
      });
    }
    return g;
  }

  // Real words of each caption whose row (or column) of T holds something, [most of them,L].
  void choose(const Captions& g, bool by_row, std::vector<int64_t>& chosen) const {
    const auto* mask = static_cast<const bool*>(p.b_mask) + g.start * W;
    for (int64_t l = 0; l < g.count; ++l)
      for (int64_t w = 0, found = 0; w < g.W; ++w) {
        bool holds = false;
        for (int64_t q = 0; q < Q && mask[l * W + w]; ++q)
          for (int64_t v = 0; v < g.W && !holds; ++v)
            holds = mask[l * W + v] && in(p.b_relations)[row_of(g.start + l, q, by_row ? w : v, W) + (by_row ? v : w)] != 0;
        if (!holds) continue;
        if (static_cast<int64_t>(chosen.size()) <= found * L) chosen.resize((found + 1) * L, -1);
        chosen[found++ * L + l] = w;
      }
  }

  // Calls visit(q, i, j, w, v) for every word w in place i of `first` and v in place j of `second` of lane l.
  template <class Visit>
  void related_words(const Captions& g, int64_t l, const Visit& visit) const {
    for (int64_t q = 0; q < Q; ++q)
      for (int64_t i = 0; i < g.F && g.first[i * L + l] >= 0; ++i)
        for (int64_t j = 0; j < g.S && g.second[j * L + l] >= 0; ++j) visit(q, i, j, g.first[i * L + l], g.second[j * L + l]);
  }

  // Where row `node` of channel q of an item's relations begins, items having N nodes.
  int64_t row_of(int64_t item, int64_t q, int64_t node, int64_t N) const { return ((item * Q + q) * N + node) * N; }

  // ---- (3): who gathers what, and the head similarities ----

  struct Work {  // of one image and L captions
    typename Nodes::State state;
    Scratch<V> memory, packed;
    V *c, *s, *alpha, *beta;            // [H,rows,W], then [n,W] each; α is normalised by `settle`
    V *z_w, *z_r;                       // [W,H], [n,H]
    V *hidden_w, *hidden_r;             // [W,K], [n,K]
    V *sum, *best;                      // [W]
    V *from, *to;                       // α of words that have a row, or a column, of T: [n,F], [n,S]
    V *seen, *meant;                    // of a channel, [n,S]: Σ_s G[r,s] α_vs, and Σ_w α_wr π_w T[w,v]
    V *dz_w, *dz_r, *d_alpha, *d_from, *d_to;  // gradients
    V *both, *turned;                   // [F,S]; `to` as [S,L,⌈n/L⌉]
  };

  void carve(Work& work, int64_t n, int64_t M, bool keep) const {
    const int64_t rows = keep ? n : TALL;
    const int64_t turned = M * L * ((n + L - 1) / L);
    V* free = work.memory.take(H * rows * M + 10 * n * M + (M + n) * (2 * H + K) + 2 * M + M * M + turned);
    const auto take = [&](int64_t count) { return free += count, free - count; };
    work.c = take(H * rows * M);
    for (V** part : {&work.s, &work.alpha, &work.beta, &work.seen, &work.meant, &work.from, &work.to}) *part = take(n * M);
    for (V** part : {&work.d_alpha, &work.d_from, &work.d_to}) *part = take(n * M);
    for (V** part : {&work.z_w, &work.dz_w}) *part = take(M * H);
    for (V** part : {&work.z_r, &work.dz_r}) *part = take(n * H);
    work.hidden_w = take(M * K), work.hidden_r = take(n * K), work.sum = take(M), work.best = take(M);
    work.both = take(M * M), work.turned = take(turned);
  }

  void attend(const Image& image, const Captions& g, Work& work, bool keep) const {
    const int64_t n = image.n, M = g.W, blocks = (n + TALL - 1) / TALL, stride = (keep ? n : TALL) * M;
    const T to_word = in(p.temperature)[0], to_region = in(p.temperature)[1], part = T(1) / H;
    std::fill_n(work.z_w, M * H, V{});
    std::fill_n(work.z_r, n * H, V{});
    std::fill_n(work.sum, M, V{});
    std::fill_n(work.best, M, V{} - 2);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = n * block / blocks, rows = n * (block + 1) / blocks - first;
      V *c = work.c + (keep ? first * M : 0), *alpha = work.alpha + first * M, *beta = work.beta + first * M;
      for (int64_t h = 0; h < H; ++h)
        Nodes::product(work.state, rows, M, E, image.a.data() + (h * n + first) * E, g.b + h * E * M, c + h * stride);
      for (int64_t i = 0; i < rows * M; ++i) {
        V s = c[i];
        for (int64_t h = 1; h < H; ++h) s += c[h * stride + i];
        work.s[first * M + i] = s * part;
      }
      for (int64_t r = 0; r < rows; ++r) {
        if (p.gather)
          weigh(work.s + (first + r) * M, g, to_word, to_region, alpha + r * M, beta + r * M, work.sum);
        else
          match(work.s + (first + r) * M, g, alpha + r * M, beta + r * M, work.best);
      }
      for (int64_t h = 0; h < H; ++h)
        tiles(rows, M, Gather{c + h * stride, alpha, beta, work.z_w + h, work.z_r + first * H + h, M, H, p.gather});
    }
    if (p.gather)
      for (int64_t w = 0; w < M; ++w) {
        const V scale = work.sum[w] = 1 / work.sum[w];
        for (int64_t h = 0; h < H; ++h) work.z_w[w * H + h] *= scale;
      }
  }

  // α as it is defined, from what `attend` left.
  void settle(const Image& image, const Captions& g, Work& work) const {
    const int64_t M = g.W;
    for (int64_t r = 0; r < image.n; ++r)
      for (int64_t w = 0; w < M; ++w) {
        V& weight = work.alpha[r * M + w];
        if (p.gather) {
          weight *= work.sum[w];
        } else {  // of the regions better than all before them, the one that was best in the end
          const V taken = weight != 0 ? work.s[r * M + w] : V{} - 3;
          weight = taken == work.best[w] ? V{} + 1 : V{};
        }
      }
  }

  // z_w += Σ_r α c and z_r += Σ_w β c of one head.
  struct Gather {
    const V *c, *alpha, *beta;
    V *z_w, *z_r;
    const int64_t W, H, sum;

    template <int M, int N>
    void tile(int64_t r0, int64_t w0) const {
      V by_word[N];
      UNROLL(int w = 0; w < N; ++w) by_word[w] = z_w[(w0 + w) * H];
      UNROLL(int r = 0; r < M; ++r) {
        V by_region = z_r[(r0 + r) * H];
        UNROLL(int w = 0; w < N; ++w) {
          const int64_t place = (r0 + r) * W + w0 + w;
          by_region += beta[place] * c[place];
          if (sum)
            by_word[w] += alpha[place] * c[place];
          else
            by_word[w] = alpha[place] != 0 ? c[place] : by_word[w];  // a better match than those before
        }
        z_r[(r0 + r) * H] = by_region;
      }
      UNROLL(int w = 0; w < N; ++w) z_w[(w0 + w) * H] = by_word[w];
    }
  };

  // λ s is at most 80, so that exp needs no shift by the largest. α is normalised at the end, β of a row here.
  static void weigh(const V* s, const Captions& g, T to_word, T to_region, V* alpha, V* beta, V* sum) {
    V total{};
    for (int64_t w = 0; w < g.W; ++w) {
      sum[w] += alpha[w] = Nodes::exp(s[w] * to_word);
      total += beta[w] = Nodes::exp(s[w] * to_region) * g.mask[w];
    }
    total = 1 / total;
    for (int64_t w = 0; w < g.W; ++w) beta[w] *= total;
  }

  // The first of the best: α marks where a region is better than all before it, β the best word of the region.
  static void match(const V* s, const Captions& g, V* alpha, V* beta, V* best) {
    V most = V{} - 2, place{};
    for (int64_t w = 0; w < g.W; ++w) {
      alpha[w] = s[w] > best[w] ? V{} + 1 : V{};
      best[w] = s[w] > best[w] ? s[w] : best[w];
      const V real = g.mask[w] != 0 ? s[w] : V{} - 2;
      place = real > most ? V{} + T(w) : place;
      most = real > most ? real : most;
    }
    for (int64_t w = 0; w < g.W; ++w) beta[w] = place == T(w) ? V{} + 1 : V{};
  }

  // ---- (4): g ----

  struct Agreement {
    const T *linear, *weight, *bias, *out, *shift;
    Agreement(const void* data, int64_t H, int64_t K)
        : linear(in(data)), weight(linear + H), bias(weight + K * H), out(bias + K), shift(out + K) {}
  };

  // Σ_i π_i g(z_i) of `nodes` nodes; X is a scalar for regions, a vector for words.
  template <class X>
  V agree(const void* parameters, int64_t nodes, const X* share, const V* z, V* hidden) const {
    V total{};
    if (!K) {
      for (int64_t i = 0; i < nodes; ++i) total += share[i] * z[i];
      return total;
    }
    const Agreement g(parameters, H, K);
    product<false>(K, nodes, H, Matrix<const T>{g.weight, H, 1}, Matrix<const V>{z, 1, H}, Matrix<V>{hidden, 1, K});
    for (int64_t i = 0; i < nodes; ++i) total += share[i] * value(g, z + i * H, hidden + i * K);
    return total;
  }

  V value(const Agreement& g, const V* z, const V* hidden) const {
    V total = V{} + *g.shift;
    for (int64_t h = 0; h < H; ++h) total += g.linear[h] * z[h];
    for (int64_t k = 0; k < K; ++k) {
      const V x = hidden[k] + g.bias[k];
      total += g.out[k] * (x * Nodes::logistic(x));
    }
    return total;
  }

  // From the gradient of the sum that `agree` gives: of π, of z, and of g's parameters (of each lane, laid out as they are).
  template <class X>
  void disagree(const void* parameters, int64_t nodes, const X* share, V grad, const V* z, V* hidden, V* d_share, V* dz,
                V* d_parameters) const {
    if (!K) {
      for (int64_t i = 0; i < nodes; ++i) d_share[i] += grad * z[i], dz[i] = grad * share[i];
      return;
    }
    const Agreement g(parameters, H, K);
    V *d_weight = d_parameters + H, *d_bias = d_weight + K * H, *d_out = d_bias + K, *d_shift = d_out + K;
    for (int64_t i = 0; i < nodes; ++i) {
      const V dg = share[i] * grad;
      V total = V{} + *g.shift;
      for (int64_t h = 0; h < H; ++h) {
        total += g.linear[h] * z[i * H + h];
        d_parameters[h] += dg * z[i * H + h];
        dz[i * H + h] = dg * g.linear[h];
      }
      for (int64_t k = 0; k < K; ++k) {
        const V x = hidden[i * K + k] + g.bias[k], gate = logistic(x), slope = dg * g.out[k] * gate * (1 + x * (1 - gate));
        total += g.out[k] * (x * gate);
        d_out[k] += dg * (x * gate);
        d_bias[k] += slope;
        hidden[i * K + k] = slope;
      }
      *d_shift += dg;
      d_share[i] += grad * total;
    }
    product<true>(K, H, nodes, Matrix<const V>{hidden, 1, K}, Matrix<const V>{z, H, 1}, Matrix<V>{d_weight, H, 1});
    product<true>(H, nodes, K, Matrix<const T>{g.weight, 1, H}, Matrix<const V>{hidden, 1, K}, Matrix<V>{dz, 1, H});
  }

  // ---- (5), by edges: Σ_k Σ_wv π_w T[w,v] Σ_rs α_wr G[r,s] α_vs ----

  // α of the words that T joins.
  void join(const Image& image, const Captions& g, Work& work) const {
    const auto take = [&](const std::vector<int64_t>& words, int64_t count, V* taken) {
      std::fill_n(taken, image.n * count, V{});
      for (int64_t i = 0; i < count * L; ++i)
        for (int64_t r = 0; r < image.n && words[i] >= 0; ++r)
          taken[r * count + i / L][i % L] = work.alpha[r * g.W + words[i]][i % L];
    };
    take(g.first, g.F, work.from), take(g.second, g.S, work.to);
  }

  void relate(const Image& image, const Captions& g, int64_t q, Work& work) const {
    const int64_t n = image.n, F = g.F, S = g.S;
    product<false>(n, S, n, Matrix<const T>{image.relations.data() + q * n * n, n, 1}, Matrix<const V>{work.to, S, 1},
                   Matrix<V>{work.seen, S, 1});
    product<false>(n, S, F, Matrix<const V>{work.from, F, 1}, Matrix<const V>{g.said + q * F * S, S, 1},
                   Matrix<V>{work.meant, S, 1});
  }

  V related(const Image& image, const Captions& g, Work& work) const {
    V total{};
    if (g.F) join(image, g, work);
    for (int64_t q = 0; q < Q && g.F; ++q) {
      relate(image, g, q, work);
      for (int64_t i = 0; i < image.n * g.S; ++i) total += work.seen[i] * work.meant[i];
    }
    return total;
  }

  // From the gradient of `related`: of α, and, added, of G with regions in the lanes, of T and of π [F].
  void unrelate(const Image& image, const Captions& g, V grad, Work& work, V* d_seen, V* d_said, V* d_share) const {
    const int64_t n = image.n, F = g.F, S = g.S, wide = (n + L - 1) / L;
    std::fill_n(work.d_alpha, n * g.W, V{});
    if (!F) return;
    join(image, g, work);
    std::fill_n(work.d_from, n * F, V{}), std::fill_n(work.d_to, n * S, V{});
    T* turned = reinterpret_cast<T*>(work.turned);
    for (int64_t r = 0; r < wide * L; ++r)
      for (int64_t i = 0; i < S * L; ++i)
        turned[i * wide * L + r] = r < n ? reinterpret_cast<const T*>(work.to)[r * S * L + i] : T(0);
    for (int64_t q = 0; q < Q; ++q) {
      relate(image, g, q, work);
      for (int64_t i = 0; i < n * S; ++i) work.seen[i] *= grad, work.meant[i] *= grad;
      product<false>(F, S, n, Matrix<const V>{work.from, 1, F}, Matrix<const V>{work.seen, S, 1}, Matrix<V>{work.both, S, 1});
      for (int64_t i = 0; i < F; ++i)
        for (int64_t j = 0; j < S; ++j) {
          d_said[(q * F + i) * S + j] += work.both[i * S + j];
          d_share[i] += g.relations[(q * F + i) * S + j] * work.both[i * S + j];
        }
      product<true>(n, S, n, Matrix<const T>{image.relations.data() + q * n * n, 1, n}, Matrix<const V>{work.meant, S, 1},
                    Matrix<V>{work.d_to, S, 1});
      product<true>(n, F, S, Matrix<const V>{work.seen, S, 1}, Matrix<const V>{g.said + q * F * S, 1, S},
                    Matrix<V>{work.d_from, F, 1});
      product<true>(n, wide, S * L, Matrix<const T>{reinterpret_cast<const T*>(work.meant), S * L, 1},
                    Matrix<const V>{work.turned, wide, 1}, Matrix<V>{d_seen + q * n * wide, wide, 1});
    }
    const auto give = [&](const std::vector<int64_t>& words, int64_t count, const V* given) {
      for (int64_t i = 0; i < count * L; ++i)
        for (int64_t r = 0; r < n && words[i] >= 0; ++r) work.d_alpha[r * g.W + words[i]][i % L] += given[r * count + i / L][i % L];
    };
    give(g.first, F, work.d_from), give(g.second, S, work.d_to);
  }

  // ---- all pairs ----

  void forward() {
    const int64_t groups = (C + L - 1) / L;
    const int64_t parts = std::clamp<int64_t>((4 * p.threads + groups - 1) / std::max<int64_t>(groups, 1), 1, (B + 7) / 8);
    T *by_words = static_cast<T*>(p.by_words), *by_regions = static_cast<T*>(p.by_regions);
    T* by_edges = static_cast<T*>(p.by_edges);
#pragma omp parallel num_threads(p.threads)
    {
      Work work;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < B; ++i) pack(i);
#pragma omp for schedule(dynamic)
      for (int64_t unit = 0; unit < groups * parts; ++unit) {
        const Captions g = pack(unit / parts, work.packed, false);
        for (int64_t i = B * (unit % parts) / parts; i < B * (unit % parts + 1) / parts; ++i) {
          const Image& image = images[i];
          carve(work, image.n, g.W, false);
          attend(image, g, work, false);
          const V words = agree<V>(p.word_g, g.W, g.share, work.z_w, work.hidden_w);
          const V regions = agree<T>(p.region_g, image.n, image.share.data(), work.z_r, work.hidden_r);
          if (Q) settle(image, g, work);
          const V edges = related(image, g, work);
          for (int64_t l = 0; l < g.count; ++l) {
            by_words[i * C + g.start + l] = words[l];
            by_regions[i * C + g.start + l] = regions[l];
            if (Q) by_edges[i * C + g.start + l] = edges[l];
          }
        }
      }
    }
  }

  void backward() {
    const int64_t groups = (C + L - 1) / L, size = H + K * H + 2 * K + 1, threads = p.threads;
    const int64_t wide = (R + L - 1) / L * L;
    std::vector<std::vector<T>> d_a(B), d_relations(B), d_share(B);
    T *d_b = static_cast<T*>(p.d_b), *d_b_relations = static_cast<T*>(p.d_b_relations), *d_b_share = static_cast<T*>(p.d_b_share);
#pragma omp parallel num_threads(p.threads)
#pragma omp for schedule(static, 1)
    for (int64_t thread = 0; thread < threads; ++thread) {
      // each thread has images of its own, and a copy of all that pairs of other threads share
      Work work;
      Scratch<V> memory, sums;
      const int64_t begin = B * thread / threads, end = B * (thread + 1) / threads;
      V* totals = sums.take(2 + 2 * size);  // λ, then g of words and of regions
      std::fill_n(totals, 2 + 2 * size, V{});
      for (int64_t i = begin; i < end; ++i) {
        pack(i);
        const int64_t n = images[i].n;
        d_a[i].assign(H * n * D * L + L, 0), d_relations[i].assign(Q * n * wide + L, 0), d_share[i].assign(n, 0);
      }
      for (int64_t group = 0; group < groups && begin < end; ++group) {
        const Captions g = pack(group, work.packed, true);
        const int64_t M = g.W;
        const int64_t F = g.F, S = g.S;
        V *db = memory.take(H * d * M + Q * F * S + F + M + R), *d_said = db + H * d * M, *d_first = d_said + Q * F * S;
        V *db_share = d_first + F, *region_share = db_share + M;
        std::fill_n(db, region_share - db, V{});
        for (int64_t i = begin; i < end; ++i) {
          const Image& image = images[i];
          carve(work, image.n, M, true);
          attend(image, g, work, true);
          settle(image, g, work);
          V by_words{}, by_regions{}, by_edges{};
          for (int64_t l = 0; l < g.count; ++l) {
            by_words[l] = in(p.by_words)[i * C + g.start + l];
            by_regions[l] = in(p.by_regions)[i * C + g.start + l];
            if (Q) by_edges[l] = in(p.by_edges)[i * C + g.start + l];
          }
          agree<V>(p.word_g, M, g.share, work.z_w, work.hidden_w);
          agree<T>(p.region_g, image.n, image.share.data(), work.z_r, work.hidden_r);
          disagree<V>(p.word_g, M, g.share, by_words, work.z_w, work.hidden_w, db_share, work.dz_w, totals + 2);
          std::fill_n(region_share, image.n, V{});
          disagree<T>(p.region_g, image.n, image.share.data(), by_regions, work.z_r, work.hidden_r, region_share, work.dz_r,
                      totals + 2 + size);
          for (int64_t r = 0; r < image.n; ++r) d_share[i][r] += sum<T>(region_share[r]);
          unrelate(image, g, by_edges, work, aligned(d_relations[i]), d_said, d_first);
          unattend(image, g, work, totals);
          untangle(image, g, work, aligned(d_a[i]), db);
        }
        for (int64_t l = 0; l < g.count; ++l) {
          for (int64_t i = 0; i < F && g.first[i * L + l] >= 0; ++i) db_share[g.first[i * L + l]][l] += d_first[i][l];
          related_words(g, l, [&](int64_t q, int64_t i, int64_t j, int64_t w, int64_t v) {
            d_b_relations[row_of(thread * C + g.start + l, q, w, W) + v] = g.share[w][l] * d_said[(q * F + i) * S + j][l];
          });
          for (int64_t w = 0; w < M; ++w) {
            const int64_t node = (thread * C + g.start + l) * W + w;
            d_b_share[node] = db_share[w][l];
            for (int64_t h = 0; h < H; ++h)
              for (int64_t k = 0; k < d; ++k) d_b[(node * H + h) * d + k] = db[(h * d + k) * M + w][l];
          }
        }
      }
      for (int64_t i = begin; i < end; ++i) 
        scatter(i, aligned(d_a[i]), reinterpret_cast<const T*>(aligned(d_relations[i])), d_share[i].data());
      for (int64_t k = 0; k < 2; ++k) static_cast<T*>(p.d_temperature)[thread * 2 + k] = sum<T>(totals[k]);
      for (int64_t k = 0; k < size && K; ++k) {
        static_cast<T*>(p.d_word_g)[thread * size + k] = sum<T>(totals[2 + k]);
        static_cast<T*>(p.d_region_g)[thread * size + k] = sum<T>(totals[2 + size + k]);
      }
    }
  }

  static V* aligned(std::vector<T>& data) {
    return reinterpret_cast<V*>((reinterpret_cast<uintptr_t>(data.data()) + BYTES - 1) / BYTES * BYTES);
  }

  // Through gathering: c becomes its own gradient. z is linear in α, so that Σ α ∂α of it is Σ_h z ∂z.
  void unattend(const Image& image, const Captions& g, Work& work, V* d_temperature) const {
    const int64_t n = image.n, M = g.W, stride = n * M;
    const T to_word = in(p.temperature)[0] / H, to_region = in(p.temperature)[1] / H;
    V* mean = work.sum;
    for (int64_t w = 0; w < M; ++w) {
      mean[w] = V{};
      for (int64_t h = 0; h < H; ++h) mean[w] += work.z_w[w * H + h] * work.dz_w[w * H + h];
      for (int64_t r = 0; r < n && Q; ++r) mean[w] += work.alpha[r * M + w] * work.d_alpha[r * M + w];
    }
    V first{}, second{};
    for (int64_t r = 0; r < n; ++r) {
      const V* dz_r = work.dz_r + r * H;
      V own{};
      for (int64_t h = 0; h < H; ++h) own += work.z_r[r * H + h] * dz_r[h];
      for (int64_t w = 0; w < M; ++w) {
        const int64_t place = r * M + w;
        const V *dz_w = work.dz_w + w * H, alpha = work.alpha[place], beta = work.beta[place];
        V* c = work.c + place;
        V ds{};
        if (p.gather) {
          V x = work.d_alpha[place], y{};
          for (int64_t h = 0; h < H; ++h) x += c[h * stride] * dz_w[h], y += c[h * stride] * dz_r[h];
          x = alpha * (x - mean[w]), y = beta * (y - own);
          first += x * work.s[place], second += y * work.s[place];
          ds = to_word * x + to_region * y;
        }
        for (int64_t h = 0; h < H; ++h) c[h * stride] = alpha * dz_w[h] + beta * dz_r[h] + ds;
      }
    }
    d_temperature[0] += first, d_temperature[1] += second;
  }

  // Through c = a · b.
  void untangle(const Image& image, const Captions& g, const Work& work, V* d_a, V* d_b) const {
    const int64_t n = image.n, M = g.W;
    for (int64_t h = 0; h < H; ++h) {
      const V* dc = work.c + h * n * M;
      product<true>(n, D, M * L, Matrix<const T>{reinterpret_cast<const T*>(dc), M * L, 1},
                    Matrix<const V>{g.rows + h * M * L * D, D, 1}, Matrix<V>{d_a + h * n * D, D, 1});
      product<true>(d, M, n, Matrix<const T>{image.a.data() + h * n * d, 1, d}, Matrix<const V>{dc, M, 1},
                    Matrix<V>{d_b + h * d * M, M, 1});
    }
  }

  void scatter(int64_t index, const V* d_a, const T* d_relations, const T* d_share) const {
    const Image& image = images[index];
    const int64_t n = image.n, wide = (n + L - 1) / L * L;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t node = index * R + image.region[i];
      static_cast<T*>(p.d_a_share)[node] = d_share[i];
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t j = 0; j < n; ++j)
          static_cast<T*>(p.d_a_relations)[row_of(index, q, image.region[i], R) + image.region[j]] =
              d_relations[(q * n + i) * wide + j];
      for (int64_t h = 0; h < H; ++h)
        std::copy_n(reinterpret_cast<const T*>(d_a + (h * n + i) * D), d, static_cast<T*>(p.d_a) + (node * H + h) * d);
    }
  }
};

}  // namespace

extern "C" void forward(const Problem* problem) { Cross<SCALAR>(*problem).forward(); }
extern "C" void backward(const Problem* problem) { Cross<SCALAR>(*problem).backward(); }

// Whether this processor multiplies bfloat16 faster than float32.
extern "C" bool narrow() {
#if defined(NARROW)
  return Narrow::allowed();
#else
  return false;
#endif
}
#if defined(NARROW)
extern "C" void forward_narrow(const Problem* problem) { Cross<float, Narrow>(*problem).forward(); }
#endif
