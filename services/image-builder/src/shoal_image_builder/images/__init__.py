"""Images: from layers to squashfs, kernel, initrd and manifest; no root, no mounts, the same bytes every time."""
