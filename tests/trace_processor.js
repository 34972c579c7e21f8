// SPDX-License-Identifier: GPL-2.0-or-later
// Runs Perfetto's own trace_processor, which its web page loads as a worker: node FILE.js BUNDLE IN OUT.
// IN and OUT are perfetto.protos.TraceProcessorRpcStream.
'use strict';
const fs = require('fs');
const path = require('path');

const [bundle, from, to] = process.argv.slice(2);
const folder = path.dirname(bundle);
const PIECE = 1 << 20;	// it takes no more at once
const exit = process.exit.bind(process);

// What a worker of a browser has, and the bundle asks for.
const local = (url) => fs.readFileSync(path.join(folder, path.basename(String(url))));
globalThis.self = globalThis;
globalThis.WorkerGlobalScope = class {};
globalThis.importScripts = () => {};
globalThis.location = { href: `file://${bundle}`, origin: 'null' };
globalThis.fetch = async (url) =>
	new Response(local(url), { headers: { 'Content-Type': 'application/wasm' } });
globalThis.XMLHttpRequest = class {
	open(method, url) { this.url = url; }
	send() {
		const bytes = local(this.url);
		this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
		this.status = 200;
		if (this.onload) this.onload();
	}
};

const answers = [];
const port = { onmessage: null, postMessage: (data) => answers.push(Buffer.from(data)) };
const pause = () => new Promise((resume) => setTimeout(resume, 20));

async function main() {
	// The bundle takes a global named process for a sign of node, where it would load other files.
	Object.defineProperty(globalThis, 'process', { value: undefined, configurable: true });
	(0, eval)(fs.readFileSync(bundle, 'utf8'));
	// It loads trace_processor at once, and sets it up when whatever is ready is done.
	await pause();
	self.onmessage({ data: port });
	while (!port.onmessage) await pause();
	const asked = fs.readFileSync(from);
	for (let at = 0; at < asked.length; at += PIECE)
		port.onmessage({ data: new Uint8Array(asked.subarray(at, at + PIECE)) });
	// Each request is answered before the next is looked at; the last asks for the status.
	for (let seen = -1; !answers.length || seen !== answers.length;) {
		seen = answers.length;
		await pause();
	}
	fs.writeFileSync(to, Buffer.concat(answers));
	exit(0);
}

main().catch((error) => { console.error(error); exit(1); });
