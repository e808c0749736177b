"""Audio and image codecs behind two small protocols: built in, pretrained, or registered by somebody else; and reading media."""
