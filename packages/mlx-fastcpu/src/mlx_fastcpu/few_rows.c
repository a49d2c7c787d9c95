/* A float32 matrix product that is fast for one to eight rows, with the arguments of cblas_sgemm.
 *
 * BLAS libraries copy the matrix into panels, which costs more than the product with so few rows:
 * generating text is 2 to 6 times slower than reading the weights. One row is a product of a matrix
 * and a vector, which needs no copy. Two to eight rows are multiplied by each row of a transposed
 * matrix while that is in the cache. All other products go to the library.
 */

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112, MOST_ROWS = 8 };

typedef void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                      float, float *, int);
typedef void (*sgemv)(int, int, int, int, float, const float *, int, const float *, int, float,
                      float *, int);

static sgemm matrix_product;
static sgemv vector_product;

void few_rows_setup(sgemm gemm, sgemv gemv)
{
    matrix_product = gemm;
    vector_product = gemv;
}

/* y = alpha op(A) x + beta y; with beta 0, y may hold anything, NaN too. */
static void multiply(int trans, int rows, int columns, float alpha, const float *a, int lda,
                     const float *x, int incx, float beta, float *y, int incy)
{
    int length = trans == NO_TRANSPOSE ? rows : columns;
    if (beta == 0) {
        for (int i = 0; i < length; i++)
            y[(long)i * incy] = 0;
        beta = 1;
    }
    vector_product(ROW_MAJOR, trans, rows, columns, alpha, a, lda, x, incx, beta, y, incy);
}

/* ROWS is a constant at each call, so that the compiler keeps the sums in registers. */
#define DOTS(ROWS)                                                                                 \
    for (int j = 0; j < n; j++) {                                                                  \
        const float *weight = b + (long)j * ldb;                                                   \
        float sums[ROWS] = {0};                                                                    \
        for (int i = 0; i < k; i++)                                                                \
            for (int row = 0; row < ROWS; row++)                                                   \
                sums[row] += weight[i] * a[(long)row * lda + i];                                   \
        for (int row = 0; row < ROWS; row++) {                                                     \
            float *out = c + (long)row * ldc + j;                                                  \
            *out = alpha * sums[row] + (beta == 0 ? 0 : beta * *out);                              \
        }                                                                                          \
    }

void few_rows_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                    int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    if (order == ROW_MAJOR && k > 0 && m == 1 && n > 1) {
        int step = ta == NO_TRANSPOSE ? 1 : lda;
        if (tb == NO_TRANSPOSE)
            multiply(TRANSPOSE, k, n, alpha, b, ldb, a, step, beta, c, 1);
        else
            multiply(NO_TRANSPOSE, n, k, alpha, b, ldb, a, step, beta, c, 1);
        return;
    }
    if (order == ROW_MAJOR && k >= 16 && m <= MOST_ROWS && ta == NO_TRANSPOSE && tb == TRANSPOSE) {
        switch (m) {
        case 2: DOTS(2) return;
        case 3: DOTS(3) return;
        case 4: DOTS(4) return;
        case 5: DOTS(5) return;
        case 6: DOTS(6) return;
        case 7: DOTS(7) return;
        case 8: DOTS(8) return;
        }
    }
    matrix_product(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
