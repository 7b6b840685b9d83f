/** Hosts of one network hear of each other by mDNS: in network namespaces, for this machine's own network is not ours. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterEach, expect, it } from "vitest";
import { Namespaces } from "../../../testnet/cluster/namespaces.ts";
import { mayNamespaces } from "../../privileges.ts";

const CHILD = fileURLToPath(new URL("mdns.child.ts", import.meta.url));
const NAMES = ["alpha", "beta"] as const;

const namespaces = new Namespaces(NAMES);
const children: ChildProcess[] = [];
const CAN_NAMESPACES = mayNamespaces();

afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  if (CAN_NAMESPACES) namespaces.stop();
});

type Said = { self?: string; peer?: string; addresses?: string[] };

function start(name: string): AsyncIterator<Said> {
  const { ip, within } = namespaces.place(name);
  const [command = "", ...args] = [...within, process.execPath, CHILD, ip];
  // Multicast needs a way out; with no other network there is no default one.
  execFileSync(within[0]!, [...within.slice(1), "ip", "route", "add", "default", "dev", "eth0"]);
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  return {
    next: async () => {
      const { value, done } = await lines.next();
      return done === true ? { done, value: undefined } : { value: JSON.parse(value) as Said };
    },
  };
}

it.runIf(CAN_NAMESPACES)(
  "two hosts that say it hear where the other is, with the port that it listens on",
  async () => {
    namespaces.start();
    const both = NAMES.map((name) => start(name));
    const [alpha, beta] = await Promise.all(both.map(async (said) => (await said.next()).value as Said));
    const heard = await Promise.all(both.map(async (said) => (await said.next()).value as Said));
    expect(heard.map(({ peer }) => peer)).toEqual([beta?.self, alpha?.self]);
    for (const [index, name] of [...NAMES].reverse().entries()) {
      expect(heard[index]?.addresses?.join()).toContain(`/ip4/${namespaces.place(name).ip}/tcp/`);
    }
  },
  60_000,
);
