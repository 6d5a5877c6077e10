// A component's program: prints its arguments and a variable, and fails if it is told so.
import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";

function print(text) {
  getStdout().blockingWriteAndFlush(Uint8Array.from(text + "\n", (letter) => letter.charCodeAt(0)));
}

export const run = {
  run() {
    const [, what, ...rest] = getArguments();
    print([what, rest.join(" ").toUpperCase(), new Map(getEnvironment()).get("NAME")].join(" "));
    if (what === "fail") throw undefined;
  },
};
