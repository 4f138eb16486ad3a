/* ctl_open.c - a control plane for tests: every session exists, every token is right, and nothing is dead that the
 * daemon asks about but what lies in layers of CTL_OPEN_DEAD_LAYER and above.
 *
 * Answers come at once from inside the question. A token that begins with 0xff is refused, so that refusals
 * can be tested; 0xfe answers that the term is old, 0xfd that the catalogue is away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storaged/ctl/ctl.h"

#define CTL_OPEN_DEAD_LAYER 0xF000u

struct lwd_ctl {
    char listen[LW_ADDRESS_MAX];
    lwd_ctl_callbacks_t callbacks;
};

lw_status_t lwd_ctl_start(const lwd_ctl_params_t *params, lwd_ctl_t **ctl_out, lw_error_t *error)
{
    lwd_ctl_t *ctl = calloc(1, sizeof(*ctl));
    if (ctl == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory");
    snprintf(ctl->listen, sizeof(ctl->listen), "%s", params->listen);
    ctl->callbacks = params->callbacks;
    *ctl_out = ctl;
    return LW_OK;
}

void lwd_ctl_stop(lwd_ctl_t *ctl, uint64_t grace_us)
{
    (void)grace_us;
    free(ctl);
}

void lwd_ctl_drain(lwd_ctl_t *ctl)
{
    (void)ctl;
}
uint64_t lwd_ctl_node_id(const char *advertise)
{
    return strlen(advertise) + 1;
}
const char *lwd_ctl_address(const lwd_ctl_t *ctl)
{
    return ctl->listen;
}
const char *lwd_ctl_http_address(const lwd_ctl_t *ctl)
{
    (void)ctl;
    return "";
}
bool lwd_ctl_holds_catalogue(const lwd_ctl_t *ctl)
{
    (void)ctl;
    return true;
}
uint64_t lwd_ctl_epoch(const lwd_ctl_t *ctl)
{
    (void)ctl;
    return 1;
}
uint64_t lwd_ctl_fleet_id(const lwd_ctl_t *ctl)
{
    (void)ctl;
    return 1;
}
bool lwd_ctl_writable(const lwd_ctl_t *ctl)
{
    (void)ctl;
    return true;
}
lw_view_t *lwd_ctl_view_copy(lwd_ctl_t *ctl)
{
    (void)ctl;
    return NULL;
}

lw_status_t lwd_ctl_check_async(lwd_ctl_t *ctl, const lwd_ctl_check_t *check, lwd_ctl_checked_fn done,
                                void *arg)
{
    uint32_t cut = UINT32_MAX;
    (void)ctl;
    lw_status_t status = check->token[0] == 0xff   ? LW_ERR_PERMISSION
                         : check->token[0] == 0xfe ? LW_ERR_STALE
                         : check->token[0] == 0xfd ? LW_ERR_FLEET
                                                   : LW_OK;
    done(arg, status, &check->session_id, &cut, status == LW_OK ? 1 : 0);
    return LW_OK;
}

lw_status_t lwd_ctl_orphans_async(lwd_ctl_t *ctl, const lw_segment_name_t *names, uint32_t count,
                                  lwd_ctl_orphans_fn done, void *arg)
{
    bool dead[LWD_CTL_ORPHANS_MAX];
    (void)ctl;
    for (uint32_t i = 0; i < count; i++)
        dead[i] = names[i].layer >= CTL_OPEN_DEAD_LAYER;
    done(arg, LW_OK, dead, count);
    return LW_OK;
}

lw_status_t lwd_ctl_expire_async(lwd_ctl_t *ctl, uint64_t bytes, lwd_ctl_expired_fn done, void *arg)
{
    (void)ctl, (void)bytes;
    done(arg, LW_OK, 0);
    return LW_OK;
}

lw_status_t lwd_ctl_placed_async(lwd_ctl_t *ctl, const lwd_placed_key_t *after, uint32_t capacity, lwd_ctl_placed_fn done,
                                 void *arg)
{
    (void)ctl, (void)after, (void)capacity;
    done(arg, LW_OK, NULL, 0);
    return LW_OK;
}

lw_status_t lwd_ctl_move_async(lwd_ctl_t *ctl, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                               lwd_ctl_moved_fn done, void *arg)
{
    (void)ctl, (void)name, (void)from, (void)to;
    done(arg, LW_ERR_STALE);
    return LW_OK;
}

bool lwd_ctl_node_token(lwd_ctl_t *ctl, uint8_t token_out[LW_TOKEN_BYTES])
{
    (void)ctl, (void)token_out;
    return false;
}
