/* fabric_address.h - "host:port" texts and socket addresses. */
#ifndef LW_FABRIC_ADDRESS_H
#define LW_FABRIC_ADDRESS_H

#include <sys/socket.h>

#include "base/error.h"

/* Parses "host:port" or "[v6]:port"; a host that is not numeric is looked up, which may block. ERR_INVALID
 * for a text that is not an address or a name without one, naming it. */
LW_CHECK lw_status_t lw_fabric_address_parse(const char *text, struct sockaddr_storage *address_out,
                                             socklen_t *bytes_out, lw_error_t *error);
/* The text of an address, with its port. ERR_INVALID when it does not fit or is of another family. */
LW_CHECK lw_status_t lw_fabric_address_text(const struct sockaddr_storage *address, char *text,
                                            size_t text_bytes);

#endif /* LW_FABRIC_ADDRESS_H */
