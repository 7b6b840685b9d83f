import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findSocketPath } from "../../../node/control/socket-path.ts";

describe("the daemon's socket", () => {
  let dataDir: string;
  beforeAll(async () => {
    dataDir = await mkdtemp(join(tmpdir(), "sojourn-data-"));
  });
  afterAll(() => rm(dataDir, { recursive: true }));

  const configure = (text: string) => writeFile(join(dataDir, "config.json"), text);

  test("is the one that the command line names, before all else", () => {
    expect(findSocketPath({ address: "/a", env: { SOJOURN_ADDR: "/b", SOJOURN_DATA: dataDir } })).toBe("/a");
  });

  test("is SOJOURN_ADDR's before the configuration's", async () => {
    await configure('{"api":{"socketPath":"/c"}}');
    expect(findSocketPath({ env: { SOJOURN_ADDR: "/b", SOJOURN_DATA: dataDir } })).toBe("/b");
    expect(findSocketPath({ env: { SOJOURN_DATA: dataDir } })).toBe("/c");
  });

  test.each(["", "{", "null", "{}", '{"api":null}', '{"api":{"socketPath":7}}'])(
    "is in the data directory when the configuration is %j",
    async (text) => {
      await configure(text);
      expect(findSocketPath({ env: { SOJOURN_DATA: dataDir } })).toBe(join(dataDir, "api.sock"));
    },
  );

  test("is under the home directory, or the machine's for root, without any word", () => {
    expect(findSocketPath({ env: {} })).toMatch(/^(\/var\/lib\/sojourn|.*\/\.sojourn)\/api\.sock$/);
  });
});
