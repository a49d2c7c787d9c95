/* A float32 matrix product that rounds its inputs to bfloat16 (to nearest even) and sums in float32,
 * for CPUs with AVX512-BF16. It has the arguments of cblas_sgemm and calls the float32 function for
 * products that it does not compute itself.
 *
 * Blocks of A and B are converted to panels. vdpbf16ps multiplies pairs of neighbours along k; a
 * 32-bit element of a panel is such a pair. Threads compute separate parts of C and share no panel.
 * Helpers sleep between products and take the next part when they are ready, so that a busy core
 * delays nothing.
 */

#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };
enum {
    TILE_ROWS = 6, /* 6 rows of 4 vectors leave room for the inputs in 32 registers */
    TILE_COLUMNS = 64,
    BLOCK_ROWS = 96,
    BLOCK_COLUMNS = 512, /* with BLOCK_DEPTH 512 KiB: half of a core's L2 */
    BLOCK_DEPTH = 512,
    PAIRS = BLOCK_DEPTH / 2,
    /* Below these the float32 product is at least as fast: tiles are half empty. */
    LEAST_ROWS = 16,
    LEAST_COLUMNS = 48,
    LEAST_DEPTH = 16,
    LEAST_WORK = 1 << 19,
    LEAST_SHARED_WORK = 1 << 23, /* below it one thread finishes before another wakes up */
    WIDE_PART = 256,             /* least rows or columns of a part */
};

typedef void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                      float, float *, int);

typedef void (*bf16_gemm)(int, int, int, int, int, int, float, const uint16_t *, int,
                          const uint16_t *, int, float, float *, int);

static sgemm float32_product;
static int (*get_threads)(void);
static bf16_gemm mkl_product;

/* `threads` is the BLAS library's function, called for each product; NULL means all cores. `mkl`, if
 * not NULL, is MKL's product and replaces the one below: it uses AMX and its own threads. */
void reduced_setup(sgemm fallback, int (*threads)(void), bf16_gemm mkl)
{
    float32_product = fallback;
    get_threads = threads;
    mkl_product = mkl;
}

static inline int min(int a, int b) { return a < b ? a : b; }

static inline __mmask16 first(int count)
{
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

/* 32 neighbours of a row, of which `count` exist: 16 pairs. */
static inline __m512i pairs_of_row(const float *row, int count)
{
    __m512 low = _mm512_maskz_loadu_ps(first(count), row);
    __m512 high = _mm512_maskz_loadu_ps(first(count - 16), row + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Element by element, 16 pairs of two rows; without the second row its half is zero. */
static inline __m512i pairs_of_rows(const float *row, const float *next, int count)
{
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6, 22, 7, 23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512 low = _mm512_maskz_loadu_ps(first(count), row);
    __m512 high = next ? _mm512_maskz_loadu_ps(first(count), next) : _mm512_setzero_ps();
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order),
                                    (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

static inline void transpose(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Pack `across` rows of `along` neighbours to out[row * row_step + pair * pair_step]. One of the two
 * steps is 1: the pairs of a row are adjacent (A), or those of 16 rows (B). `contiguous` if `along`
 * is the direction of adjacent memory. */
static inline __attribute__((always_inline)) void
pack(const float *in, long step, int contiguous, int across, int along, uint32_t *out,
     int rows_together)
{
    for (int row = 0; row < across; row += 16) {
        int rows = min(16, across - row);
        uint32_t *to = rows_together ? out + (row / TILE_COLUMNS) * (long)TILE_COLUMNS * PAIRS +
                                           row % TILE_COLUMNS
                                     : out + (long)row * PAIRS;
        for (int k = 0; k < along; k += 32) {
            int depth = along - k;
            __m512i r[16];
            if (contiguous) {
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    r[i] = i < rows ? pairs_of_row(in + (row + i) * step + k, depth)
                                    : _mm512_setzero_si512();
            } else {
                const float *from = in + k * step + row;
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++, from += 2 * step)
                    r[i] = 2 * i >= depth ? _mm512_setzero_si512()
                                          : pairs_of_rows(from, 2 * i + 1 < depth ? from + step : 0,
                                                          rows);
            }
            if (contiguous == rows_together)
                transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                _mm512_storeu_si512(rows_together ? to + (k / 2 + i) * TILE_COLUMNS
                                                  : to + (long)i * PAIRS + k / 2,
                                    r[i]);
        }
    }
}

static inline __attribute__((always_inline)) void
multiply_tile(int pairs, const uint32_t *a, const uint32_t *b, float *c, long ldc, int rows,
              int columns, float alpha, float beta)
{
    __m512 sum[TILE_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            sum[i][j] = _mm512_setzero_ps();
    for (int p = 0; p < pairs; p++, a++, b += TILE_COLUMNS) {
        __m512bh right[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            right[j] = (__m512bh)_mm512_loadu_si512(b + 16 * j);
        }
#pragma GCC unroll 6
        for (int i = 0; i < TILE_ROWS; i++) {
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)a[i * PAIRS]);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
    __m512 scale = _mm512_set1_ps(alpha), keep = _mm512_set1_ps(beta);
#pragma GCC unroll 6
    for (int i = 0; i < TILE_ROWS; i++) {
        if (i >= rows)
            break;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __mmask16 mask = first(columns - 16 * j);
            float *to = c + i * ldc + 16 * j;
            __m512 value = _mm512_mul_ps(sum[i][j], scale);
            if (beta != 0) /* C may hold anything, NaN too, where it is not wanted */
                value = _mm512_fmadd_ps(keep, _mm512_maskz_loadu_ps(mask, to), value);
            _mm512_mask_storeu_ps(to, mask, value);
        }
    }
}

static int multiply(int ta, int tb, int m, int n, int k, float alpha, const float *a, long lda,
                    const float *b, long ldb, float beta, float *c, long ldc)
{
    enum { A_SIZE = (BLOCK_ROWS + 16) * PAIRS, B_SIZE = BLOCK_COLUMNS * PAIRS };
    uint32_t *left = aligned_alloc(64, sizeof(uint32_t) * (A_SIZE + B_SIZE));
    if (!left)
        return 0;
    uint32_t *right = left + A_SIZE;
    for (int j = 0; j < n; j += BLOCK_COLUMNS)
        for (int p = 0; p < k; p += BLOCK_DEPTH) {
            int columns = min(BLOCK_COLUMNS, n - j), depth = min(BLOCK_DEPTH, k - p);
            if (tb)
                pack(b + j * ldb + p, ldb, 1, columns, depth, right, 1);
            else
                pack(b + p * ldb + j, ldb, 0, columns, depth, right, 1);
            for (int i = 0; i < m; i += BLOCK_ROWS) {
                int rows = min(BLOCK_ROWS, m - i);
                if (ta)
                    pack(a + p * lda + i, lda, 0, rows, depth, left, 0);
                else
                    pack(a + i * lda + p, lda, 1, rows, depth, left, 0);
                for (int y = 0; y < rows; y += TILE_ROWS)
                    for (int x = 0; x < columns; x += TILE_COLUMNS)
                        multiply_tile((depth + 1) / 2, left + y * PAIRS, right + x * PAIRS,
                                      c + (i + y) * ldc + j + x, ldc, rows - y, columns - x, alpha,
                                      p ? 1 : beta);
            }
        }
    free(left);
    return 1;
}

/* Round a matrix to bfloat16, its rows closed up. */
static void round_rows(const float *in, long step, int rows, int columns, uint16_t *out)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += 32) {
            int count = min(32, columns - j);
            __mmask32 mask = count == 32 ? ~0u : (1u << count) - 1;
            _mm512_mask_storeu_epi16(out + (long)i * columns + j, mask,
                                     pairs_of_row(in + i * step + j, count));
        }
}

static int multiply_by_mkl(int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                           const float *b, int ldb, float beta, float *c, int ldc)
{
    int a_rows = ta ? k : m, a_columns = ta ? m : k, b_rows = tb ? n : k, b_columns = tb ? k : n;
    uint16_t *left = malloc(sizeof(uint16_t) * ((long)m * k + (long)n * k));
    if (!left)
        return 0;
    uint16_t *right = left + (long)m * k;
    round_rows(a, lda, a_rows, a_columns, left);
    round_rows(b, ldb, b_rows, b_columns, right);
    mkl_product(ROW_MAJOR, ta ? TRANSPOSE : NO_TRANSPOSE, tb ? TRANSPOSE : NO_TRANSPOSE, m, n, k,
                alpha, left, a_columns, right, b_columns, beta, c, ldc);
    free(left);
    return 1;
}

/* One product, and the parts that threads have taken. */
struct job {
    int left_across, right_across, m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
    int by_columns, step, parts;
    int next;            /* changed atomically */
    int wanted, helpers; /* changed under `lock` */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t posted = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static struct job *current;
static int all_helpers;

static void compute_parts(struct job *job)
{
    for (;;) {
        int part = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (part >= job->parts)
            return;
        long from = (long)part * job->step;
        int by_columns = job->by_columns;
        int size = min(job->step, (by_columns ? job->n : job->m) - (int)from);
        int rows = by_columns ? job->m : size, columns = by_columns ? size : job->n;
        const float *a = job->a, *b = job->b;
        float *c = job->c + from * (by_columns ? 1 : job->ldc);
        if (by_columns)
            b += from * (job->right_across ? job->ldb : 1);
        else
            a += from * (job->left_across ? 1 : job->lda);
        if (!multiply(job->left_across, job->right_across, rows, columns, job->k, job->alpha, a,
                      job->lda, b, job->ldb, job->beta, c, job->ldc)) /* no memory */
            float32_product(ROW_MAJOR, job->left_across ? TRANSPOSE : NO_TRANSPOSE,
                            job->right_across ? TRANSPOSE : NO_TRANSPOSE, rows, columns, job->k,
                            job->alpha, a, job->lda, b, job->ldb, job->beta, c, job->ldc);
    }
}

static void *help(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!current || !current->wanted)
            pthread_cond_wait(&posted, &lock);
        struct job *job = current;
        job->wanted--;
        job->helpers++;
        pthread_mutex_unlock(&lock);
        compute_parts(job);
        pthread_mutex_lock(&lock);
        if (--job->helpers == 0)
            pthread_cond_broadcast(&finished);
    }
    return NULL;
}

/* Compute a product with helpers, or alone while they work for another thread. A forked child has no
 * helpers and computes alone. */
static void share(struct job *job, int threads)
{
    pthread_mutex_lock(&lock);
    int is_free = !current;
    if (is_free) {
        pthread_t helper;
        while (all_helpers < threads - 1 && !pthread_create(&helper, NULL, help, NULL)) {
            pthread_detach(helper);
            all_helpers++;
        }
        job->wanted = threads - 1;
        current = job;
        pthread_cond_broadcast(&posted);
    }
    pthread_mutex_unlock(&lock);
    compute_parts(job);
    if (is_free) {
        pthread_mutex_lock(&lock);
        current = NULL;
        while (job->helpers)
            pthread_cond_wait(&finished, &lock);
        pthread_mutex_unlock(&lock);
    }
}

void reduced_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                   int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    double work = (double)m * n * k;
    int unsuited = order != ROW_MAJOR || alpha == 0 || m < LEAST_ROWS || n < LEAST_COLUMNS ||
                   k < LEAST_DEPTH || work < LEAST_WORK;
    int left_across = ta != NO_TRANSPOSE, right_across = tb != NO_TRANSPOSE;
    if (!unsuited && mkl_product &&
        multiply_by_mkl(left_across, right_across, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
        return;
    if (unsuited || mkl_product) {
        float32_product(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    int threads = get_threads ? get_threads() : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int by_columns = n > m, whole = by_columns ? n : m, parts = 1;
    int grain = by_columns ? TILE_COLUMNS : TILE_ROWS;
    if (threads > 1 && work >= LEAST_SHARED_WORK)
        parts = whole / threads >= 2 * WIDE_PART ? 2 * threads : threads;
    int step = ((whole + grain - 1) / grain + parts - 1) / parts * grain;
    struct job job = {
        left_across, right_across, m, n, k, lda, ldb, ldc, alpha, beta, a, b, c,
        by_columns, step, (whole + step - 1) / step, 0, 0, 0,
    };
    if (parts > 1)
        share(&job, threads);
    else
        compute_parts(&job);
}
