/* tensors.c - see tensors.h. */
#include "bench/eval/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint32_t eval_layer_numbers[EVAL_LAYERS] = {1, 3, 5};

static lw_status_t read_file(const char *folder, const char *name, void *to, size_t bytes, lw_error_t *error)
{
    char path[1024], extra;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return lw_fail(error, LW_ERR_INVALID, "%s: path too long", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return lw_fail(error, LW_ERR_NOT_FOUND, "%s: cannot be opened", path);
    int whole = fread(to, 1, bytes, file) == bytes && fread(&extra, 1, 1, file) == 0;
    fclose(file);
    return whole ? LW_OK : lw_fail(error, LW_ERR_INVALID, "%s: not of %zu bytes", path, bytes);
}

lw_status_t eval_tensors_open(const char *folder, eval_tensors_t *tensors_out, lw_error_t *error)
{
    size_t layer = (size_t)EVAL_KV_HEADS * EVAL_TOKENS * EVAL_HEAD_DIM * sizeof(uint16_t);
    size_t queries = (size_t)EVAL_LAYERS * EVAL_QUERIES * EVAL_HEADS * EVAL_HEAD_DIM * sizeof(uint16_t);
    size_t outputs = (size_t)EVAL_LAYERS * EVAL_OUTPUTS * EVAL_HEADS * EVAL_HEAD_DIM * sizeof(float);
    eval_tensors_t t = {malloc(layer * EVAL_LAYERS), malloc(layer * EVAL_LAYERS), malloc(queries),
                        malloc(outputs)};
    lw_status_t status = LW_OK;
    if (t.keys == NULL || t.values == NULL || t.queries == NULL || t.outputs == NULL)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for the tensors");
    for (uint32_t l = 0; l < EVAL_LAYERS && status == LW_OK; l++) {
        char name[32];
        snprintf(name, sizeof name, "k-layer%u.bin", eval_layer_numbers[l]);
        status = read_file(folder, name, t.keys + l * layer / sizeof(uint16_t), layer, error);
        name[0] = 'v';
        if (status == LW_OK)
            status = read_file(folder, name, t.values + l * layer / sizeof(uint16_t), layer, error);
    }
    if (status == LW_OK)
        status = read_file(folder, "q-layers.bin", t.queries, queries, error);
    if (status == LW_OK)
        status = read_file(folder, "o-layers-last64.bin", t.outputs, outputs, error);
    if (status == LW_OK)
        *tensors_out = t;
    else
        eval_tensors_close(&t);
    return status;
}

void eval_tensors_close(eval_tensors_t *tensors)
{
    free(tensors->keys);
    free(tensors->values);
    free(tensors->queries);
    free(tensors->outputs);
    memset(tensors, 0, sizeof *tensors);
}
