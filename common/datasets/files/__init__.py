"""The files of a corpus: lists, tables, workbooks, transcripts, folders of media."""
