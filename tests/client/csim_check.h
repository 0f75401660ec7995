/* What the generated codecs of csim/v1 call where CDDL says more than zcbor reads: canonical CBOR, the characters of ids
 * and texts, values of any type. Part of the C starting point; nothing is allocated. */
#ifndef CSIM_CHECK_H
#define CSIM_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zcbor_common.h"

/* PROTOCOL.md, section 3. */
#define CSIM_PAYLOAD_MAX 65536
#define CSIM_ITEMS_MAX 65536
#define CSIM_DEPTH_MAX 8

/* Whether octets are one payload in the one form that is accepted. To be called before they are decoded. */
bool csim_check(const uint8_t *payload, size_t length);

/* An `id`: 1 to 64 of a-z, 0-9 and '-'; a `free-text`: UTF-8 without control characters. */
bool csim_id_decode(zcbor_state_t *state, struct zcbor_string *result);
bool csim_text_decode(zcbor_state_t *state, struct zcbor_string *result);

/* A value of any type, a map of such: the octets of its CBOR, as they stand in the message. */
bool csim_plain_decode(zcbor_state_t *state, struct zcbor_string *result);
bool csim_plain_encode(zcbor_state_t *state, const struct zcbor_string *input);
bool csim_figures_decode(zcbor_state_t *state, struct zcbor_string *result);
bool csim_figures_encode(zcbor_state_t *state, const struct zcbor_string *input);

#endif
