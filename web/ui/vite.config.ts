// Builds the web client into ../dist. Nothing here may fetch from another host, and nothing may
// need an inline script or style: the content security policy forbids both.
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import react from "@vitejs/plugin-react";

// The look shared with the server-rendered sign-in pages, at an address that never changes.
const shared = ["tokens.css", "base.css", "page.css"];
function sharedStylesheet(): Plugin {
    const css = () => shared.map((f) => readFileSync(new URL(`src/design/${f}`, import.meta.url), "utf8")).join("\n");
    return {
        name: "holdfast-css",
        configureServer(server) {
            server.middlewares.use("/assets/holdfast.css", (_req, res) => {
                res.setHeader("content-type", "text/css");
                res.end(css());
            });
        },
        generateBundle() {
            this.emitFile({ type: "asset", fileName: "assets/holdfast.css", source: css() });
        },
    };
}

// What the service worker says, which cannot load the whole catalogue for it.
const catalogue = JSON.parse(readFileSync(new URL("src/i18n/en.json", import.meta.url), "utf8")) as Record<string, string>;
const pushTexts = Object.fromEntries(["app.name", "push.one", "push.more"].map((k) => [k, catalogue[k]]));

const backend = process.env["HOLDFAST_BACKEND"] ?? "http://localhost:8008";
const proxied = ["/_matrix", "/_synapse", "/.well-known", "/oauth2", "/login", "/logout", "/consent", "/account", "/reauth", "/e/", "/livekit", "/api", "/element-call"];

export default defineConfig({
    plugins: [react(), sharedStylesheet()],
    define: { pushTexts: JSON.stringify(pushTexts) },
    build: {
        outDir: "../dist",
        emptyOutDir: true,
        target: "es2022",
        sourcemap: false,
        assetsInlineLimit: 0,
        modulePreload: { polyfill: false },
        chunkSizeWarningLimit: 1600,
        rollupOptions: {
            input: { index: "index.html", push: "src/push/worker.ts" },
            // A service worker has one address for ever, at the root, whose pages it serves.
            output: { entryFileNames: (chunk) => (chunk.name === "push" ? "push.js" : "assets/[name]-[hash].js") },
        },
    },
    worker: { format: "es" },
    optimizeDeps: { exclude: ["@matrix-org/matrix-sdk-crypto-wasm"] },
    server: {
        proxy: Object.fromEntries(proxied.map((p) => [p, { target: backend, ws: true }])),
    },
});
