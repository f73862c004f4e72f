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

const backend = process.env["HOLDFAST_BACKEND"] ?? "http://localhost:8008";
const proxied = ["/_matrix", "/_synapse", "/.well-known", "/oauth2", "/login", "/logout", "/consent", "/account", "/reauth", "/e/", "/livekit", "/api", "/element-call"];

export default defineConfig({
    plugins: [react(), sharedStylesheet()],
    build: {
        outDir: "../dist",
        emptyOutDir: true,
        target: "es2022",
        sourcemap: false,
        assetsInlineLimit: 0,
        modulePreload: { polyfill: false },
        chunkSizeWarningLimit: 1600,
    },
    worker: { format: "es" },
    optimizeDeps: { exclude: ["@matrix-org/matrix-sdk-crypto-wasm"] },
    server: {
        proxy: Object.fromEntries(proxied.map((p) => [p, { target: backend, ws: true }])),
    },
});
