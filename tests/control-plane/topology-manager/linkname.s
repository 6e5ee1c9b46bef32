// Empty: a package with assembly may declare functions whose bodies are elsewhere (go:linkname).
