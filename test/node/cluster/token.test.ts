import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { formatToken, parseToken, type Token } from "../../../node/cluster/token.ts";

const token: Token = {
  cluster: "ab".repeat(32),
  inviter: "12D3KooWNvSZnPi3RrhrTwEY4LuuBeB6K6facKUCJcyWG1aoDd2p",
  expiresAtMs: 1_900_000_000_000,
  addresses: ["/ip4/192.0.2.1/tcp/4701", "/ip6/2001:db8::1/tcp/4701"],
  secret: new Uint8Array(randomBytes(32)),
};

test("a token reads back as it was made, in letters that survive a shell", () => {
  const text = formatToken(token);
  expect(text).toMatch(/^[A-Za-z0-9_-]+$/);
  expect(parseToken(`  ${text}\n`)).toEqual(token);
});

test("a token with any character changed, cut or added is refused", () => {
  const text = formatToken(token);
  const damaged = [
    text.slice(1),
    text.slice(0, -1),
    `${text}A`,
    "",
    "hello",
    "A".repeat(5000),
    `${text} ${text}`,
  ];
  for (let index = 0; index < text.length; index++) {
    damaged.push(`${text.slice(0, index)}${text[index] === "A" ? "B" : "A"}${text.slice(index + 1)}`);
  }
  // The last character carries two bits that mean nothing.
  const same = damaged.filter((each) =>
    Buffer.from(each, "base64url").equals(Buffer.from(text, "base64url")),
  );
  for (const each of damaged.filter((one) => !same.includes(one))) {
    expect(() => parseToken(each), each).toThrow(expect.objectContaining({ code: "TOKEN_INVALID" }));
  }
});
