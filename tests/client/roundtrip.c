/* Reads lines of "rule hex", decodes the payload into its type and writes the octets that it encodes to again; "refused"
 * where it does not decode. What the device of a stranger would do with what comes in. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "csim_check.h"
#include "csim_decode.h"
#include "csim_encode.h"

#define OCTETS_MAX 65536

static uint8_t in[OCTETS_MAX], out[OCTETS_MAX];
static char line[2 * OCTETS_MAX + 64];

/* Elements behind those that are known are not written again: there are none in what is read here. */
#define TRY(name, type)                                                              \
	if (strcmp(rule, name) == 0) {                                               \
		static struct type value;                                            \
		size_t read = 0;                                                     \
		return csim_check(in, length) &&                                     \
		       cbor_decode_##type(in, length, &value, &read) == 0 &&         \
		       read == length && value.type##_any_count == 0 &&              \
		       cbor_encode_##type(out, sizeof(out), &value, written) == 0;   \
	}

static bool again(const char *rule, size_t length, size_t *written)
{
	TRY("register-up", register_up)
	TRY("register-down", register_down)
	TRY("usage-up", usage_up)
	TRY("usage-down", usage_down)
	TRY("credit-up", credit_up)
	TRY("credit-down", credit_down)
	TRY("command", command)
	TRY("ack", ack)
	TRY("status", status)
	TRY("fleet-command", fleet_command)
	TRY("fleet-reply", fleet_reply)
	TRY("fleet-event", fleet_event)
	TRY("fleet-summary", fleet_summary)
	TRY("node-status", node_status)
	TRY("statistics", statistics)
	TRY("rejected", rejected)
	return false;
}

int main(void)
{
	char rule[32];
	int at;

	while (fgets(line, sizeof(line), stdin)) {
		size_t length = 0, written = 0;
		unsigned int octet;

		if (sscanf(line, "%31s %n", rule, &at) != 1) {
			return 1;
		}
		for (const char *hex = line + at; sscanf(hex, "%2x", &octet) == 1; hex += 2) {
			in[length++] = (uint8_t)octet;
		}
		if (again(rule, length, &written)) {
			for (size_t i = 0; i < written; i++) {
				printf("%02x", out[i]);
			}
			printf("\n");
		} else {
			printf("refused\n");
		}
	}
	return 0;
}
