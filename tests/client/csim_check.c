#include "csim_check.h"

#include <string.h>

#include "zcbor_decode.h"

enum { NEGATIVE = 1, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE };

struct walk {
	const uint8_t *at, *end;
	size_t items_left;
};

/* The head of an item: its major type, and its argument in the shortest form. */
static bool head(struct walk *walk, uint8_t *major, uint64_t *argument)
{
	if (walk->at == walk->end) {
		return false;
	}
	uint8_t first = *walk->at++, info = first & 0x1f;

	*major = first >> 5;
	*argument = info;
	if (*major == SIMPLE) {
		return info >= 20 && info <= 22; /* false, true, null */
	}
	if (info < 24) {
		return *major != TAG;
	}
	size_t width = (size_t)1 << (info - 24);

	if (info > 27 || *major == TAG || (size_t)(walk->end - walk->at) < width) {
		return false;
	}
	*argument = 0;
	for (size_t i = 0; i < width; i++) {
		*argument = *argument << 8 | *walk->at++;
	}
	return width == 1 ? *argument >= 24 : *argument >> (4 * width) != 0;
}

/* UTF-8 as RFC 3629 has it: no longer form than needed, no surrogates. */
static bool is_utf8(const uint8_t *at, const uint8_t *end)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};

	while (at < end) {
		uint8_t first = *at++;
		int more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : first >> 3 == 30 ? 3 : -1;

		if (more < 0 || end - at < more) {
			return false;
		}
		uint32_t point = more ? first & (0x3fu >> more) : first;

		for (int i = 0; i < more; i++, at++) {
			if (*at >> 6 != 2) {
				return false;
			}
			point = point << 6 | (*at & 0x3f);
		}
		if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
			return false;
		}
	}
	return true;
}

static bool item(struct walk *walk, int depth);

/* Keys in the order of their octets, each once. */
static bool map(struct walk *walk, uint64_t pairs, int depth)
{
	const uint8_t *last = NULL;
	size_t last_length = 0;

	for (uint64_t i = 0; i < pairs; i++) {
		const uint8_t *key = walk->at;

		if (!item(walk, depth)) {
			return false;
		}
		size_t length = (size_t)(walk->at - key);

		if (last) {
			int order = memcmp(last, key, last_length < length ? last_length : length);

			if (order > 0 || (order == 0 && last_length >= length)) {
				return false;
			}
		}
		last = key;
		last_length = length;
		if (!item(walk, depth)) {
			return false;
		}
	}
	return true;
}

static bool item(struct walk *walk, int depth)
{
	uint8_t major;
	uint64_t argument;

	if (walk->items_left-- == 0 || !head(walk, &major, &argument)) {
		return false;
	}
	switch (major) {
	case BYTES:
	case TEXT:
		if (argument > (uint64_t)(walk->end - walk->at)) {
			return false;
		}
		walk->at += argument;
		return major == BYTES || is_utf8(walk->at - argument, walk->at);
	case ARRAY:
		if (depth == 0) {
			return false;
		}
		for (uint64_t i = 0; i < argument; i++) {
			if (!item(walk, depth - 1)) {
				return false;
			}
		}
		return true;
	case MAP:
		return depth > 0 && map(walk, argument, depth - 1);
	default:
		return true;
	}
}

bool csim_check(const uint8_t *payload, size_t length)
{
	struct walk walk = {payload, payload + length, CSIM_ITEMS_MAX};

	return length <= CSIM_PAYLOAD_MAX && item(&walk, CSIM_DEPTH_MAX) && walk.at == walk.end;
}

bool csim_id_decode(zcbor_state_t *state, struct zcbor_string *result)
{
	if (!zcbor_tstr_decode(state, result)) {
		return false;
	}
	for (size_t i = 0; i < result->len; i++) {
		uint8_t c = result->value[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) {
			return false;
		}
	}
	return true; /* The generated code looks at its length. */
}

bool csim_text_decode(zcbor_state_t *state, struct zcbor_string *result)
{
	if (!zcbor_tstr_decode(state, result)) {
		return false;
	}
	for (size_t i = 0; i < result->len; i++) {
		uint8_t c = result->value[i];
		/* U+0080 to U+009F are control characters, too. */
		bool second = c == 0xc2 && i + 1 < result->len && result->value[i + 1] < 0xa0;

		if (c < 0x20 || c == 0x7f || second) {
			return false;
		}
	}
	return is_utf8(result->value, result->value + result->len);
}

/* It stands in the message's array, so one level is taken. */
bool csim_plain_decode(zcbor_state_t *state, struct zcbor_string *result)
{
	struct walk walk = {state->payload, state->payload_end, CSIM_ITEMS_MAX};

	if (state->elem_count == 0 || !item(&walk, CSIM_DEPTH_MAX - 1)) {
		return false;
	}
	result->value = state->payload;
	result->len = (size_t)(walk.at - state->payload);
	state->payload = walk.at;
	state->elem_count--;
	return true;
}

static bool is_figures(const uint8_t *octets, size_t length)
{
	struct walk walk = {octets, octets + length, CSIM_ITEMS_MAX};
	uint8_t major;
	uint64_t pairs;

	if (!head(&walk, &major, &pairs) || major != MAP) {
		return false;
	}
	for (uint64_t i = 0; i < pairs; i++) {
		if (walk.at == walk.end || *walk.at >> 5 != TEXT || !item(&walk, 0) || !item(&walk, CSIM_DEPTH_MAX - 2)) {
			return false;
		}
	}
	return true;
}

bool csim_figures_decode(zcbor_state_t *state, struct zcbor_string *result)
{
	return csim_plain_decode(state, result) && is_figures(result->value, result->len);
}

bool csim_plain_encode(zcbor_state_t *state, const struct zcbor_string *input)
{
	struct walk walk = {input->value, input->value + input->len, CSIM_ITEMS_MAX};

	if (!item(&walk, CSIM_DEPTH_MAX - 1) || walk.at != walk.end ||
	    input->len > (size_t)(state->payload_end - state->payload)) {
		return false;
	}
	memmove(state->payload_mut, input->value, input->len);
	state->payload_mut += input->len;
	state->elem_count++;
	return true;
}

bool csim_figures_encode(zcbor_state_t *state, const struct zcbor_string *input)
{
	return is_figures(input->value, input->len) && csim_plain_encode(state, input);
}
