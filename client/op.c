/* op.c - the list of accepted completion records. */
#include "client/op.h"

#include <assert.h>
#include <string.h>

static_assert(sizeof(lwc_op_words_t) <= sizeof(((lw_op_t *)0)->priv), "op: private words fit");

void lwc_op_accept(lwc_op_list_t *list, lw_op_t *op, lwc_op_kind_t kind)
{
    lwc_op_words_t *words = lwc_op_words(op);

    memset(op->priv, 0, sizeof(op->priv));
    op->status = LW_INPROGRESS;
    words->kind = kind;
    /* Appended at the end: ops complete in the order in which they were accepted where they can. */
    lw_op_t **link = &list->first;
    while (*link)
        link = (lw_op_t **)&lwc_op_words(*link)->next;
    *link = op;
}

void lwc_op_remove(lwc_op_list_t *list, lw_op_t *op)
{
    for (lw_op_t **link = &list->first; *link; link = (lw_op_t **)&lwc_op_words(*link)->next)
        if (*link == op) {
            *link = (lw_op_t *)(uintptr_t)lwc_op_words(op)->next;
            return;
        }
}
