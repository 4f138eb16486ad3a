/* graph.cu - passes recorded once and replayed. */
#include <stdlib.h>

#include "client/examples/llama/cuda/runner.cuh"

struct llama_gpu_graph {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
};

lw_status_t llama_graph_begin(llama_gpu_t *gpu)
{
    return lwk_cuda_check("capture_begin",
                          cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal));
}

lw_status_t llama_graph_end(llama_gpu_t *gpu, llama_gpu_graph_t **graph_out)
{
    llama_gpu_graph_t *graph = (llama_gpu_graph_t *)calloc(1, sizeof(*graph));
    cudaGraph_t recorded = NULL;
    lw_status_t status = lwk_cuda_check("capture_end", cudaStreamEndCapture(gpu->stream, &recorded));
    if (graph == NULL) {
        if (recorded != NULL)
            cudaGraphDestroy(recorded);
        return LW_ERR_NO_MEMORY;
    }
    graph->graph = recorded;
    if (status == LW_OK)
        status = lwk_cuda_check("capture_end", cudaGraphInstantiate(&graph->exec, graph->graph, 0));
    if (status == LW_OK)
        status = lwk_cuda_check("capture_end", cudaGraphUpload(graph->exec, gpu->stream));
    if (status != LW_OK) {
        llama_graph_destroy(graph);
        return status;
    }
    *graph_out = graph;
    return LW_OK;
}

lw_status_t llama_graph_launch(llama_gpu_t *gpu, llama_gpu_graph_t *graph)
{
    return lwk_cuda_check("graph", cudaGraphLaunch(graph->exec, gpu->stream));
}

void llama_graph_destroy(llama_gpu_graph_t *graph)
{
    if (graph == NULL)
        return;
    if (graph->exec != NULL)
        cudaGraphExecDestroy(graph->exec);
    if (graph->graph != NULL)
        cudaGraphDestroy(graph->graph);
    free(graph);
}
