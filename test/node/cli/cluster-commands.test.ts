/** What the commands about the cluster and about ownership say to people. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { CustodyReport, MemberRow, RecoverReport } from "../../../node/control/api.ts";
import { hostInfo } from "../control/samples.ts";
import { startTestDaemon } from "../control/test-daemon.ts";
import { runSojourn, spawnSojourn } from "./run-sojourn.ts";

const member: MemberRow = {
  host: "12D3KooWAlpha",
  hostName: "alpha",
  self: true,
  state: "alive",
  addresses: ["/ip4/10.0.0.5/tcp/4701"],
  domains: 1,
  freeBytes: 2 ** 30,
  seenBy: "alpha",
  ageSeconds: 0,
};
const other = { host: "12D3KooWBeta", hostName: "beta", self: false, addresses: [] };

test("members lists who is suspect by whom, who quarrels about a domain, and who was revoked why", async () => {
  const members: MemberRow[] = [
    { ...member, conflicts: ["web"] },
    { ...member, ...other, state: "suspect", stateSeconds: 3, accusers: ["gamma"], ageSeconds: 7 },
    {
      ...member,
      ...other,
      hostName: "delta",
      state: "revoked",
      revoked: { byName: "alpha", reason: "stolen" },
    },
  ];
  await using daemon = await startTestDaemon({ members: () => members });
  const { stdout } = await runSojourn(["members"], daemon);
  expect(stdout).toContain("alive; CONFLICT about web");
  expect(stdout).toMatch(/beta +suspect for 3 s, says gamma .* alpha, 7 s ago/);
  expect(stdout).toMatch(/delta +revoked by alpha: stolen/);
});

test("watch says whose word it is, and prints a line for each change until it is interrupted", async () => {
  await using daemon = await startTestDaemon({
    info: () => hostInfo,
    watch: async (_, { emit, signal }) => {
      const at = "2026-01-02T03:04:05.678Z";
      emit({ kind: "member", at, host: "b", hostName: "beta", from: "alive", to: "suspect" });
      emit({
        ...{ kind: "domain", at, domain: "id-1", name: "web", host: "b", hostName: "beta", generation: 4 },
        ...{ state: "running", conflict: ["gamma"] },
      });
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      return { ended: true };
    },
  });
  const child = spawnSojourn(["watch"], daemon);
  let said = "";
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (said.includes("CONFLICT")) child.kill("SIGKILL");
  }
  expect(said).toBe(
    "as alpha hears of it:\n" +
      "03:04:05.678  host beta is suspect (was alive)\n" +
      "03:04:05.678  domain web is running on beta, generation 4; CONFLICT: gamma claim it, too\n",
  );
});

test("recover says what it found, did and advises, and exits with 4 while nobody can tell", async () => {
  const report: RecoverReport = {
    ...{ domain: "id-1", name: "web", found: ["alpha: no guest"], did: [], where: "unknown" },
    ...{ decision: "wait", advice: "beta may be running it" },
  };
  await using daemon = await startTestDaemon({ recover: () => report });
  const { code, stdout } = await runSojourn(["recover", "web"], daemon);
  expect(code).toBe(4);
  expect(stdout).toBe(
    "found  alpha: no guest\ndid    nothing\nnow    web is unknown\n       beta may be running it\n",
  );
  const { code: usage } = await runSojourn(["recover", "web", "--adopt"], daemon);
  expect(usage).toBe(2);
});

const custody: CustodyReport = {
  ...{ domain: "id-1", name: "web", seenBy: "alpha", ageSeconds: 0, unreached: "beta" },
  certificates: [
    {
      ...{
        domain: "id-1",
        kind: "adopted",
        generation: 4,
        from: "A",
        to: "B",
        fromName: "alpha",
        toName: "beta",
      },
      ...{ previous: "none", digest: "unknown", timeMs: 0, word: "{}", signedBy: ["beta"] },
    },
  ],
  problems: [],
  incomplete: [],
  gaps: [4],
  cutOff: [2, 3],
};

test("history --verify names what breaks the chain, and what does not", async () => {
  const answers = [custody, { ...custody, problems: ["generation 4: the signature is not B's"] }];
  await using daemon = await startTestDaemon({ custody: () => answers.shift()! });
  const sound = await runSojourn(["history", "web", "--verify"], daemon);
  expect(sound.code).toBe(0);
  expect(sound.stdout).toContain("sound from generation 4 on");
  expect(sound.stdout).toContain("nobody vouches for what was before generation 4\n");
  expect(sound.stdout).toContain("cut off by an adoption: generation 2, 3\n");
  expect(sound.stdout).toContain("beta, the domain's host, does not answer");
  const broken = await runSojourn(["history", "web", "--verify"], daemon);
  expect(broken.code).toBe(1);
  expect(broken.stdout).toContain("NOT SOUND: generation 4: the signature is not B's\n");
  expect(broken.stdout).not.toContain("sound from");
});

test("history --chain needs no daemon, and says what is wrong with a file", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sojourn-chain-"));
  const file = join(folder, "chain.json");
  const daemonless = { socketPath: "/nowhere/api.sock" };
  try {
    for (const [text, complaint] of [
      ["no JSON", "is not JSON"],
      ['{"certificates":[]}', "is no chain of custody"],
      [
        JSON.stringify({ ...custody, certificates: [{ ...custody.certificates[0], generation: "4" }] }),
        "generation",
      ],
    ] as const) {
      await writeFile(file, text);
      const { code, stderr } = await runSojourn(["history", "--chain", file], daemonless);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(complaint) });
    }
    await writeFile(file, JSON.stringify(custody));
    const unsigned = await runSojourn(["history", "--chain", file], daemonless);
    expect(unsigned.code).toBe(1);
    expect(unsigned.stdout).toContain("NOT SOUND: generation 4: B has not signed it");
    const both = await runSojourn(["history", "web", "--chain", file], daemonless);
    expect(both.code).toBe(2);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("a migration is connecting before there was a link that could be down", async () => {
  const progress = {
    ...{ phase: "negotiating", iteration: 0, sentBytes: 0, memoryBytes: 0, rateBytesPerSecond: 0 },
    ...{ dirtyRateBytesPerSecond: 0, remainingBlocks: 0, connected: false },
  };
  await using daemon = await startTestDaemon({
    migrate: async (_, { emit }) => {
      emit(progress);
      emit({ ...progress, connected: true });
      emit({ ...progress, sentBytes: 4096, connected: false });
      throw new Error("enough");
    },
  });
  const { stderr } = await runSojourn(["migrate", "web", "beta"], daemon);
  expect(stderr).toMatch(/connecting to the peer\n.*\n.*link down, waiting for the peer\n/);
});
