"""Reading media, and audio and image codecs behind two small protocols: built in, pretrained, or somebody else's."""
