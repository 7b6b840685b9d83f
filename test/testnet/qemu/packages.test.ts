import { describe, expect, it } from "vitest";
import { withBackports } from "../../../testnet/qemu/packages.ts";

const suite = "bookworm";

describe("the sources of apt that the guest's packages come from", () => {
  it("are the machine's own, with backports beside the release", () => {
    const text =
      "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main";
    expect(withBackports(text, { suite, isDeb822: true })).toBe(
      text.replace("bookworm-updates", "bookworm-updates bookworm-backports"),
    );
  });

  it("have no backports of security updates", () => {
    const text = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main";
    expect(withBackports(text, { suite, isDeb822: true })).toBe(text);
  });

  it("leave out what is not Debian's release", () => {
    const text = "Types: deb\nURIs: http://mirror.test/other\nSuites: nodistro\nComponents: main";
    expect(withBackports(text, { suite, isDeb822: true })).toBe("");
    expect(withBackports("deb http://mirror.test/other stable main\n", { suite, isDeb822: false })).toBe("");
  });

  it("may be written a line each, with options, and comments between them", () => {
    const text = [
      "# the release",
      "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.test/debian bookworm main contrib",
      "deb-src http://mirror.test/debian bookworm main",
      "deb http://mirror.test/security bookworm-security main",
    ].join("\n");
    expect(withBackports(text, { suite, isDeb822: false }).trimEnd().split("\n")).toEqual([
      "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.test/debian bookworm main contrib",
      "deb [signed-by=/usr/share/keyrings/debian.gpg] http://mirror.test/debian bookworm-backports main contrib",
      "deb http://mirror.test/security bookworm-security main",
    ]);
  });

  it("name backports once where the machine has them already", () => {
    const text = "Types: deb\nSuites: bookworm bookworm-backports";
    expect(withBackports(text, { suite, isDeb822: true })).toBe(text);
  });
});
