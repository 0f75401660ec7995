// Reads an AsyncAPI document with AsyncAPI's own parser, and holds each example against its schema, which that parser
// does not do. asyncapi.mjs NODE_MODULES DOCUMENT; ends with 1 and a line for each fault.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, path] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Parser } = require("@asyncapi/parser");
const Ajv = require("ajv").default;

const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
const faults = diagnostics.filter((found) => found.severity === 0).map((found) => `${found.path.join(".")}: ${found.message}`);
let examples = 0;
if (document) {
  const ajv = new Ajv({ strict: false, allErrors: true });
  for (const message of document.allMessages().all()) {
    const fits = ajv.compile(message.payload().json());
    for (const example of message.examples().all()) {
      examples += 1;
      if (!fits(example.payload())) faults.push(`${message.name()} ${example.name()}: ${ajv.errorsText(fits.errors)}`);
      // A schema that takes anything would take this too.
      const broken = example.payload().slice();
      broken[1] = {};
      if (fits(broken)) faults.push(`${message.name()} ${example.name()}: a map in place of its first field fits`);
    }
  }
}
const channels = document?.channels().all().length ?? 0;
console.log(JSON.stringify({ channels, operations: document?.operations().all().length ?? 0, examples }));
for (const fault of faults) console.error(fault);
process.exit(faults.length > 0 ? 1 : 0);
